"""What can go wrong between a bundle and its quantized form."""

from __future__ import annotations

from dst.runtime.errors import DstError


class QuantizeError(DstError):
    """A bundle could not be quantized; nothing was written.

    Codes of its own: `recipe` (no such recipe, or one that contradicts itself), `override` (it
    names nothing in the bundle, or a form that does not fit), `calibration` (data that is missing
    or does not fit), `no-counterpart` (optimum cannot express the recipe, or no recipe is the
    configuration of optimum), `budget` (not written as one, or in another unit than the outputs).
    """

    code = "quantize"
