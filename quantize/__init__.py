"""Make a bundle smaller or faster by rounding its weights."""

from dst.quantize.errors import QuantizeError
from dst.quantize.quantize import Quantized, quantize_bundle
from dst.quantize.recipe import (
    FORMS,
    RECIPES,
    Form,
    Method,
    Override,
    Recipe,
    override_named,
    recipe_named,
)
from dst.quantize.record import NothingQuantizedError, WeightRecord
from dst.quantize.rounding.calibrate import Calibration

__all__ = [
    "FORMS",
    "RECIPES",
    "Calibration",
    "Form",
    "Method",
    "NothingQuantizedError",
    "Override",
    "QuantizeError",
    "Quantized",
    "Recipe",
    "WeightRecord",
    "override_named",
    "quantize_bundle",
    "recipe_named",
]
