"""What can go wrong between a bundle and its quantized form, one class each."""

from __future__ import annotations

from dst.runtime.errors import DstError


class QuantizeError(DstError):
    """A bundle could not be quantized; nothing was written."""


class RecipeError(QuantizeError):
    """No such recipe, or one that contradicts itself."""


class OverrideError(QuantizeError):
    """An override names nothing in the bundle, or a form that does not fit what it names."""


class CalibrationError(QuantizeError):
    """A recipe needs calibration that was not given, or the data does not fit the bundle."""


class NoCounterpartError(RecipeError):
    """A recipe that optimum cannot express, or a configuration of optimum that no recipe is."""


class BudgetError(QuantizeError):
    """A budget that is not written as one, or is in another unit than the model's outputs have."""
