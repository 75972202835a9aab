"""Make a bundle smaller or faster by rounding its weights."""

from dst.quantize.assign import NothingQuantizedError, WeightRecord
from dst.quantize.calibrate import Calibration
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
