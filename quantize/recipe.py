"""Recipes: in which form each kind of weight is held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, cast, get_args

from dst.quantize.errors import QuantizeError

Form = Literal[
    "float32",
    "float16",
    "int8-dynamic",
    "int8-static",
    "int8-rows",
    "int8-block",
    "int4-block",
    "int4-rows",
    "int8-stored",
]
"""How a weight is held and what its product reads. Weights are symmetric, without a zero point.

- `float32`: as it was.
- `float16`: weight and product in half precision, results back in float32.
- `int8-dynamic`: int8 per column; the chunk is rounded to 8 bits with **one scale for all its
  items** (`DynamicQuantizeLinear`), so that a later item moves the answer to an earlier one.
  Single steps have a graph of their own, which multiplies the same numbers as `int8-block` does.
- `int8-static`: int8 per column; the chunk is rounded with a scale found by calibration.
- `int8-rows`: int8 per column; each item is rounded with a scale of its own: causal.
- `int8-block`, `int4-block`: blocks of the weight share a scale (`DequantizeLinear` with
  `block_size`, which ONNX Runtime runs as `MatMulNBits` with accuracy level 4: each item is rounded
  to 8 bits by block): causal.
- `int4-rows`: the numbers of `int4-block`; chunks round them once more, to int8 per column, when
  the graph is opened, and multiply them as `int8-rows` does, which is faster on every CPU. Single
  steps have a graph of their own, which multiplies as `int4-block` does: causal, but T = 1 is
  another rounding than larger T.
- `int8-stored`: of recurrent operators and convolutions; int8 per output on disk, multiplied out to
  float32 once, when the graph is opened. Files shrink; memory and speed stay, opening takes a
  little longer, and only the weights are rounded: causal.

A recurrent operator or a convolution in `float16` is held so on disk and multiplied out as well.
"""
FORMS: tuple[Form, ...] = get_args(Form)
"""Every form."""
Precision = Literal["int4", "int8", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""What the manifest's ``precision`` says of a quantized bundle, the smallest first."""
Method = Literal["rtn", "search", "gptq"]
"""How the values of a block are found.

- `rtn`: the largest value sets the scale, the rest is rounded to the nearest.
- `search`: the scale is the one, of a grid, that leaves the least squared error.
- `gptq`: the same scale; each row's rounding error is made good in the rows after it, weighed by
  what calibration saw (Frantar et al. 2022, https://arxiv.org/abs/2210.17323).
"""
METHODS: tuple[Method, ...] = get_args(Method)
WEIGHT_BITS: tuple[Literal[7, 8], ...] = (7, 8)
BLOCKS = (16, 32, 64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """In which form each kind of weight is held.

    State, gates, decay, norms and softmax stay float32 in every recipe. The weights of recurrent
    operators and convolutions follow ``products`` as far as there are kernels for them
    (``dst.quantize.assign.operator_form``); they are ``int8-stored`` else.

    Attributes:
        name: what the manifest's ``recipe`` begins with.
        precision: the manifest's ``precision``, where any weight has it; a saved state names it.
        summary: one line for people.
        products: weights of matrix products.
        recurrent: those of them whose result goes into the state.
        embedding: tables that items look up; int8 has one scale per row. A head tied to its
            embedding reads the same bytes: of blocks of 64 where products are held in blocks.
        block: values that share one scale in the block forms. Larger blocks are faster and less
            exact. On ONNX Runtime 1.32 single steps equal chunks bit for bit up to 32 at 4 bits and
            64 at 8 with AVX512, up to 16 and 128 with AVX2; above, they differ in the last bits of
            a float32 sum.
        method: how they are found.
        weight_bits: of int8 weights per column. CPUs without VNNI (most before 2019) add two
            products of 8 by 8 bits in 16 bits, which overflow; of 8 by 7 bits they do not, so
            that every CPU computes the same.
    """

    name: str
    precision: Precision
    summary: str
    products: Form
    recurrent: Form
    embedding: Literal["float32", "float16", "int8"] = "int8"
    block: int = 32
    method: Method = "rtn"
    weight_bits: Literal[7, 8] = 7

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise QuantizeError(
                f"recipe {self.name}: block is {self.block}; choose from {list(BLOCKS)}",
                code="recipe",
            )

    @property
    def forms(self) -> frozenset[Form]:
        """The forms of its products."""
        return frozenset((self.products, self.recurrent))

    @property
    def blockwise(self) -> bool:
        """Whether a weight is held in blocks, so that ``block`` and ``method`` matter."""
        return bool(self.forms & {"int4-block", "int4-rows", "int8-block"})

    @property
    def label(self) -> str:
        """What the manifest calls it: the name, and what was changed of it."""
        usual = RECIPES.get(self.name, self)
        changed = [f"block {self.block}"] if self.block != usual.block else []
        changed += [self.method] if self.method != usual.method else []
        if self.weight_bits != usual.weight_bits:
            changed.append(f"weights of {self.weight_bits} bits")
        if self.embedding != usual.embedding:
            changed.append(f"embedding {self.embedding}")
        return ", ".join([self.name, *changed])


def _recipes(*recipes: Recipe) -> Mapping[str, Recipe]:
    return MappingProxyType({recipe.name: recipe for recipe in recipes})


RECIPES: Mapping[str, Recipe] = _recipes(
    Recipe(
        name="int8-dynamic",
        precision="int8",
        summary="int8 weights per column, one activation scale per chunk: fastest chunks, T fixed",
        products="int8-dynamic",
        recurrent="int8-dynamic",
    ),
    Recipe(
        name="int8-rows",
        precision="int8",
        summary="int8 weights per column, one activation scale per item: causal, any T",
        products="int8-rows",
        recurrent="int8-rows",
    ),
    Recipe(
        name="int8-static",
        precision="int8",
        summary="int8 weights per column, calibrated activation scales: for NPUs",
        products="int8-static",
        recurrent="int8-static",
    ),
    Recipe(
        name="int8-weights",
        precision="int8",
        summary="int8 weights by block, multiplied by item: close to float32, fast single steps",
        products="int8-block",
        recurrent="int8-block",
        block=64,
    ),
    Recipe(
        name="int4-weights",
        precision="int4",
        summary="4-bit weights by block: smallest, fastest single steps",
        products="int4-block",
        recurrent="int4-block",
    ),
    Recipe(
        name="int4-rows",
        precision="int4",
        summary="4-bit weights by block, read as int8 by chunks: small, fast chunks and steps",
        products="int4-rows",
        recurrent="int4-rows",
    ),
    Recipe(
        name="int4-mixed",
        precision="int4",
        summary="4-bit weights by block, but 8 bits where a product feeds the state",
        products="int4-block",
        recurrent="int8-block",
    ),
    Recipe(
        name="fp16",
        precision="float16",
        summary="half-precision weights and products, for GPU, WebGPU and Core ML; no gain on CPU",
        products="float16",
        recurrent="float16",
        embedding="float16",
    ),
)
"""Every recipe by name."""


def recipe_named(
    name: str,
    *,
    block: int | None = None,
    method: str | None = None,
    weight_bits: int | None = None,
) -> Recipe:
    """Look up a recipe, with another block size, method or range of int8 weights if given.

    Examples:
        >>> recipe_named("int4-weights", block=64, method="search").label
        'int4-weights, block 64, search'

    Raises:
        QuantizeError: `recipe`: no recipe has this name, or the change means nothing to it.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise QuantizeError(f"no recipe {name!r}; there are {', '.join(RECIPES)}", code="recipe")
    if (block is not None or method is not None) and not recipe.blockwise:
        raise QuantizeError(
            f"recipe {name}: holds nothing in blocks; leave block and method out", code="recipe"
        )
    bits = next((b for b in WEIGHT_BITS if b == (weight_bits or recipe.weight_bits)), None)
    if bits is None:
        raise QuantizeError(
            f"weight_bits is {weight_bits}; choose from {list(WEIGHT_BITS)}", code="recipe"
        )
    chosen = next((m for m in METHODS if m == (method or recipe.method)), None)
    if chosen is None:
        raise QuantizeError(f"no method {method!r}; there are {', '.join(METHODS)}", code="recipe")
    size = recipe.block if block is None else block
    return replace(recipe, block=size, method=chosen, weight_bits=bits)


@dataclass(frozen=True, slots=True)
class Override:
    """A form for the weights that a pattern names, whatever the recipe says.

    Attributes:
        pattern: a shell pattern (``*``, ``?``, ``[...]``) for names of weights or of nodes.
        form: in which form to hold them; ``float32`` keeps them.
    """

    pattern: str
    form: Form

    def __post_init__(self) -> None:
        """Refuse a form that there is not."""
        if self.form not in FORMS:
            raise QuantizeError(
                f"override {self.pattern!r}: no form {self.form!r}; there are {', '.join(FORMS)}",
                code="override",
            )


def override_named(pattern: str, form: str) -> Override:
    """Make an override from the name of a form.

    Examples:
        >>> override_named("lstm.*", "float32")
        Override(pattern='lstm.*', form='float32')

    Raises:
        QuantizeError: `override`: there is no such form.
    """
    return Override(pattern, cast(Form, form))
