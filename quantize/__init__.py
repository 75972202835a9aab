"""A bundle goes in, a smaller or faster bundle comes out."""

from dst.quantize.apply import Quantized, quantize_bundle
from dst.quantize.calibrate import Calibration
from dst.quantize.errors import (
    CalibrationError,
    OverrideError,
    QuantizeError,
    RecipeError,
)
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

__all__ = [
    "FORMS",
    "RECIPES",
    "Calibration",
    "CalibrationError",
    "Form",
    "Method",
    "NothingQuantizedError",
    "Override",
    "OverrideError",
    "QuantizeError",
    "Quantized",
    "Recipe",
    "RecipeError",
    "WeightRecord",
    "override_named",
    "quantize_bundle",
    "recipe_named",
]
