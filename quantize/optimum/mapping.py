"""Translate recipes to optimum's `QuantizationConfig` and back, where both mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from dst.quantize.errors import QuantizeError
from dst.quantize.recipe import Form, Recipe, recipe_named

if TYPE_CHECKING:
    from optimum.onnxruntime.configuration import QuantizationConfig

PRODUCT, LOOKUP = "MatMul", "Gather"
"""What optimum calls the products and the look-ups of a recipe. A Gemm is a product too: a MatMul
and an addition."""
_ELSEWHERE: Mapping[Form, str] = MappingProxyType(
    {
        "float16": "half precision is no quantization to it",
        "int8-rows": "it has no scale per item; its nearest is int8-dynamic",
        "int8-block": "it has no scales by block; its nearest is int8-dynamic",
        "int4-rows": "it has no 4 bits and no scales by block; its nearest is int8-dynamic",
        "int4-block": "it has no 4 bits and no scales by block; its nearest is int8-dynamic",
    }
)


def to_optimum(recipe: Recipe) -> QuantizationConfig:
    """Say a recipe in optimum's words.

    The result equals that of `AutoQuantizationConfig.avx512_vnni`, `arm64` and `ppc64le` with the
    same operators where int8 weights take 8 bits, and that of `avx512` with `reduce_range` where
    they take 7.

    Raises:
        QuantizeError: `no-counterpart`: optimum has no words for it; the message says what to use
            instead.
    """
    from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
    from optimum.onnxruntime.configuration import QuantizationConfig

    foreign, why = sorted(recipe.forms & _ELSEWHERE.keys()), ""
    if foreign:
        why = f"optimum has no {foreign[0]}: {_ELSEWHERE[foreign[0]]}; or leave optimum out"
    elif recipe.products != recipe.recurrent or recipe.products == "float32":
        why = (
            f"products are {recipe.products}, and {recipe.recurrent} where they feed the state; "
            "optimum has one form, int8-dynamic or int8-static, for all: keep single weights by "
            "overrides (--keep)"
        )
    elif recipe.embedding == "float16":
        why = "the embedding is float16; optimum has int8 or float32"
    if why:
        raise QuantizeError(f"recipe {recipe.label}: {why}", code="no-counterpart")
    static = recipe.products == "int8-static"
    return QuantizationConfig(
        is_static=static,
        format=QuantFormat.QDQ if static else QuantFormat.QOperator,
        mode=QuantizationMode.QLinearOps if static else QuantizationMode.IntegerOps,
        activations_dtype=QuantType.QUInt8,
        activations_symmetric=False,
        weights_dtype=QuantType.QInt8,
        weights_symmetric=True,
        per_channel=True,
        reduce_range=recipe.weight_bits == 7,
        operators_to_quantize=[PRODUCT, LOOKUP] if recipe.embedding == "int8" else [PRODUCT],
    )


def from_optimum(config: QuantizationConfig) -> Recipe:
    """Find the recipe that a configuration of optimum means.

    Raises:
        QuantizeError: `no-counterpart`: no recipe does that; the message says what to change.
    """
    operators = {str(getattr(name, "value", name)) for name in config.operators_to_quantize}
    others, why = operators - {PRODUCT, "Gemm", LOOKUP}, ""
    if PRODUCT not in operators:
        why = f"is {sorted(operators)}; every recipe quantizes products: add {PRODUCT!r}"
    elif others:
        why = (
            f"holds {', '.join(sorted(others))}, which recipes hold in forms of their own "
            "(optimum's default list wrecks recurrent models); give operators_to_quantize="
            f"{[PRODUCT, LOOKUP]}, or {[PRODUCT]} to keep the embedding"
        )
    if why:
        raise QuantizeError(
            f"optimum's configuration: operators_to_quantize {why}", code="no-counterpart"
        )
    static = bool(config.is_static)
    _expect("weights_dtype", config.weights_dtype.name, "QInt8", _UNSIGNED)
    _expect("weights_symmetric", config.weights_symmetric, True, "weights have no zero point")
    _expect("per_channel", config.per_channel, True, "one scale for a whole weight loses too much")
    _expect("activations_dtype", config.activations_dtype.name, "QUInt8", _SIGNED)
    _expect("activations_symmetric", config.activations_symmetric, False, _SIGNED)
    if static:
        _expect("format", config.format.name, "QDQ", "static recipes are written as QDQ pairs")
    for name in ("qdq_add_pair_to_weight", "qdq_dedicated_pair"):
        _expect(name, getattr(config, name), False, "weights are held in int8, pairs once")
    axes = dict(config.qdq_op_type_per_channel_support_to_axis)
    _expect("qdq_op_type_per_channel_support_to_axis", axes, {PRODUCT: 1}, "columns have scales")
    for name in ("nodes_to_quantize", "nodes_to_exclude"):
        _expect(name, list(getattr(config, name)), [], "name nodes by overrides (--keep, --form)")
    bits = 7 if config.reduce_range else 8
    recipe = recipe_named("int8-static" if static else "int8-dynamic", weight_bits=bits)
    return recipe if LOOKUP in operators else replace(recipe, embedding="float32")


_UNSIGNED = (
    "AutoQuantizationConfig.avx2 takes weights without a sign, so that products do not saturate; "
    "weights of 7 bits do not either: use AutoQuantizationConfig.avx512(reduce_range=True)"
)
_SIGNED = "activations are rounded without a sign, from their least to their greatest value"


def _expect(name: str, found: object, expected: object, why: str) -> None:
    if found != expected:
        raise QuantizeError(
            f"optimum's configuration: {name} is {found}, recipes have {expected}: {why}",
            code="no-counterpart",
        )
