"""Choose a form for every weight of a bundle, by a recipe and overrides, and record why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import msgspec

from dst.quantize.errors import QuantizeError
from dst.quantize.find_weights import FoundWeights, Role, WeightUse
from dst.quantize.recipe import FORMS, Form, Override, Recipe

_TIED: Mapping[Form, Form] = {
    "int8-dynamic": "int8-dynamic",
    "int8-static": "int8-static",
    "int8-block": "int8-block",
    "int4-block": "int8-block",
}
"""How a head reads an int8 table that it is tied to; ``int8-rows`` where it has another form."""
TIED_BLOCK = 64
"""Values that such a head multiplies under one scale in the block forms: the largest size at which
single steps equal chunks bit for bit."""
_TABLE_FORMS: tuple[Form, ...] = ("float32", "float16", "int8-rows")
_CELL_FORMS: tuple[Form, ...] = ("float32", "float16", "int8-stored", "int8-dynamic", "int8-rows")
_FILTER_FORMS: tuple[Form, ...] = ("float32", "float16", "int8-stored", "int8-static")
_PRODUCT_FORMS: tuple[Form, ...] = tuple(form for form in FORMS if form != "int8-stored")
_FITTING: dict[Role, tuple[str, tuple[Form, ...]]] = {
    "embedding": ("a table", _TABLE_FORMS),
    "cell": ("of a recurrent operator", _CELL_FORMS),
    "filter": ("of a convolution", _FILTER_FORMS),
}
_REASONS: dict[Role, str] = {
    "gate": "decay and write strength stay float32",
    "narrow": "too narrow to gain anything",
}
_RANK: tuple[Role, ...] = ("gate", "narrow", "embedding", "recurrent", "product", "cell", "filter")
_MADE_UP = re.compile(r"lifted_tensor|::")
"""In names that torch's exporters give to weights which they have put together."""
_UNSEEN = "calibration cannot look into the body of an If, a Loop or a Scan"


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one weight, in every graph that holds it.

    Attributes:
        form: how it is held; ``int8-rows`` for a table means int8 with a scale per row.
        role: its part in the recurrence.
        reason: why it is not held as the recipe holds products; empty where it is.
        table: key of the table whose numbers it shares, for a tied head.
        forced: an override quantizes what the recipe would have left.
        block: values per scale where an ``int8-block`` product reads the numbers of int8 columns
            or of a table; 0 where it has blocks of its own.
    """

    form: Form
    role: Role
    reason: str = ""
    table: str = ""
    forced: bool = False
    block: int = 0


class WeightRecord(msgspec.Struct, frozen=True):
    """What became of one weight, or of one operator that holds weights.

    Attributes:
        graph: file of the first graph that holds it.
        node: the node that reads it.
        weight: the initializer, the first where an operator has several; empty for an operator
            whose weights were left as they are.
        role: its part in the recurrence (``dst.quantize.find_weights.Role``), or ``operator``.
        shape: (K, N) of a product, (V, D) of a table, of a recurrent operator what multiplies
            input and state; empty for an operator whose weights were left.
        form: how it is held now.
        reason: why it stays float32, or is only stored in 8 bits; empty where it has the recipe's
            own form.
        forced: an override quantizes what every recipe leaves in float32.
        tied: it reads the numbers of a table.
        more: further initializers of the operator, held in the same form.
    """

    graph: str
    node: str
    weight: str
    role: str
    shape: tuple[int, ...]
    form: Form
    reason: str = ""
    forced: bool = False
    tied: bool = False
    more: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What to show to people; also a pattern for an override.

        Returns:
            The names of its weights as the model has them; the node where an exporter made the
            names up, or where its weights were left.

        Examples:
            >>> lstm = ("cell", (80, 256), "int8-stored")
            >>> WeightRecord("step.onnx", "LSTM_5", "lstm.weight_ih_l0", *lstm).label
            'lstm.weight_ih_l0'
            >>> WeightRecord("step.onnx", "LSTM_5", "step.module.lstm.lifted_tensor_0", *lstm).label
            'LSTM_5'
        """
        names = (self.weight, *self.more)
        made_up = not self.weight or any(_MADE_UP.search(name) for name in names)
        return self.node if made_up else " + ".join(names)


class NothingQuantizedError(QuantizeError):
    """No weight of a bundle could be quantized; nothing was written.

    Attributes:
        records: what every weight is, with the reason why it stays so.
    """

    code = "nothing-quantized"

    def __init__(
        self, message: str = "", records: Sequence[WeightRecord] = (), *, code: str = ""
    ) -> None:
        super().__init__(message, code=code)
        self.records = tuple(records)


def choose(
    graphs: Mapping[str, FoundWeights], recipe: Recipe, overrides: Sequence[Override]
) -> dict[str, Choice]:
    """Choose a form for every weight of a bundle.

    Args:
        graphs: Graph file -> its weights.
        recipe: The rule.
        overrides: The exceptions; the last that names a weight counts.

    Returns:
        Key of the weight -> choice.

    Raises:
        QuantizeError: `override`: a pattern names nothing, or a form that does not fit what it
            names.
    """
    uses = [use for found in graphs.values() for use in found.uses]
    left = {name for found in graphs.values() for name in found.left}
    roles: dict[str, Role] = {}
    for use in uses:
        known = roles.get(use.key, use.role)
        roles[use.key] = min(known, use.role, key=_RANK.index)
    choices = {use.key: _by_recipe(use, roles[use.key], recipe) for use in uses}
    for override in overrides:
        _apply(override, uses, left, roles, choices)
    _tie(uses, choices)
    for use in uses:
        choices[use.key] = _possible(use, choices[use.key], recipe)
    return choices


def _possible(use: WeightUse, choice: Choice, recipe: Recipe) -> Choice:
    """Fall back to what an operator, or calibration, can do."""
    gap = use.gaps.get(choice.form)
    if gap:
        return replace(choice, form="int8-stored", reason=gap)
    blocks = choice.form in ("int8-block", "int4-block", "int4-rows") and recipe.method == "gptq"
    if use.inside and (choice.form == "int8-static" or blocks):
        if use.role == "filter":
            return replace(choice, form="int8-stored", reason=_UNSEEN)
        return replace(choice, form="float32", reason=_UNSEEN)
    return choice


def operator_form(operator: str, products: Form) -> Form:
    """The form of a recurrent operator or a convolution where products have one.

    Convolutions have an 8-bit kernel for ranges that calibration found. Recurrent operators have
    one that rounds their input; where products round only weights, theirs are only stored. None
    has one for 4 bits.

    Examples:
        >>> operator_form("LSTM", "int8-rows"), operator_form("LSTM", "int4-block")
        ('int8-rows', 'int8-stored')
    """
    if products in ("float32", "float16"):
        return products
    if products == "int4-rows":
        products = "int8-rows"
    able: tuple[Form, ...] = ("int8-dynamic", "int8-rows")
    if operator == "Conv":
        able = ("int8-static",)
    elif operator == "ConvTranspose":
        able = ()
    return products if products in able else "int8-stored"


def _by_recipe(use: WeightUse, role: Role, recipe: Recipe) -> Choice:
    if role in ("cell", "filter"):
        wanted = operator_form(use.operator, recipe.products)
        slow = use.slow.get(wanted, "")
        return Choice("int8-stored" if slow else wanted, role, slow)
    if role in _REASONS:
        return Choice("float32", role, _REASONS[role])
    if role == "embedding":
        form: Form = "int8-rows" if recipe.embedding == "int8" else recipe.embedding
        return Choice(form, role)
    return Choice(recipe.recurrent if role == "recurrent" else recipe.products, role)


def _apply(
    override: Override,
    uses: Sequence[WeightUse],
    left: set[str],
    roles: Mapping[str, Role],
    choices: dict[str, Choice],
) -> None:
    pattern, form = override.pattern, override.form
    hit = [s for s in uses if s.named_by(lambda name: fnmatchcase(name, pattern))]
    fixed = [name for name in left if fnmatchcase(name, pattern)]
    if not hit and not fixed:
        names = sorted({name for s in uses for name in s.names or (s.weight,)})
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise QuantizeError(
            f"override {pattern!r} names no weight and no node; weights: {shown}", code="override"
        )
    if not hit and form != "float32":
        raise QuantizeError(
            f"override {pattern!r}: {sorted(fixed)[0]} can only stay float32", code="override"
        )
    for use in hit:
        role = roles[use.key]
        what, fitting = _FITTING.get(role, ("a product", _PRODUCT_FORMS))
        if use.operator == "ConvTranspose":
            fitting = tuple(f for f in fitting if f != "int8-static")
        if form not in fitting:
            raise QuantizeError(
                f"override {pattern!r}: {use.weight} is {what}, which cannot be {form}; "
                f"choose from {', '.join(fitting)}",
                code="override",
            )
        reason = "kept by an override" if form == "float32" else ""
        forced = form != "float32" and role in _REASONS
        choices[use.key] = Choice(form, role, reason, forced=forced)


def _tie(uses: Sequence[WeightUse], choices: dict[str, Choice]) -> None:
    """Let a head that mirrors a table read the table's numbers."""
    tables = {s.mirror: s.key for s in uses if s.role == "embedding"}
    for use in uses:
        table = tables.get(use.key)
        own = choices[use.key]
        if table is None or own.role == "embedding" or own.form == "float32":
            continue
        form = choices[table].form
        if form == "int8-rows":
            form = _TIED.get(own.form, "int8-rows")
        if form != "float32" and (form == "float16") == (own.form == "float16"):
            block = TIED_BLOCK if form == "int8-block" else 0
            choices[use.key] = Choice(form, own.role, "", table, own.forced, block)
