"""Quantize a bundle by a recipe, and record what became of every weight."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

import dst
from dst.graphs.weights import FILE as WEIGHTS_FILE
from dst.graphs.weights import INLINE_BYTES, expanded_bytes, inline_bytes, pack
from dst.quantize.assign import Choice, NothingQuantizedError, WeightRecord, choose
from dst.quantize.calibrate import Calibration, observed
from dst.quantize.errors import QuantizeError
from dst.quantize.recipe import PRECISIONS, Form, Override, Precision, Recipe, recipe_named
from dst.quantize.rewriting.rebuild import (
    Backend,
    Direct,
    Opened,
    entry_of,
    opened,
    rebuilt,
    runs_both,
    spans_the_chunk,
    split_graphs,
)
from dst.quantize.rewriting.rewrite import EMBEDDING_OPSET, OPSET
from dst.quantize.rounded_weights import RoundedWeights
from dst.quantize.verify import verify
from dst.runtime.bundle.manifest import Contract, Graph, Manifest, Producer, Stored
from dst.runtime.bundle.reader import Bundle, open_bundle
from dst.runtime.bundle.validation import INIT_FILE, TOKENIZER_FILE
from dst.runtime.bundle.writer import check_target, write_bundle

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""
Files = dict[str, bytes | Path]


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized bundle.

    Attributes:
        bundle: where it lies and what its manifest says.
        records: what became of every weight, equal weights once.
        weights_bytes: what the weights take on disk, before and after. An open graph holds more
            where they are only stored in 8 bits: ``bundle.manifest.weights_bytes`` says how much.
    """

    bundle: Bundle
    records: tuple[WeightRecord, ...]
    weights_bytes: tuple[int, int]


def quantize_bundle(
    source: str | Path | Bundle,
    path: str | Path,
    recipe: str | Recipe,
    *,
    calibration: Calibration | None = None,
    overrides: Sequence[Override] = (),
    backend: Backend | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Quantize a bundle: the same model, contract and state, in smaller numbers.

    What has no quantized form and what must not have one (decay, gates, norms, the state itself)
    stays float32; ``Quantized.records`` says so. An If that the contract's constants decide is
    replaced by the branch that is taken.

    Args:
        source: The full-precision bundle: a directory, the name of a shipped one, or open.
        path: Directory to make.
        recipe: A recipe or its name.
        calibration: Real items, for recipes that need them; others make no use of them.
        overrides: Forms for single weights, by pattern; the last that fits counts.
        backend: Who rounds the weights of products and writes them, by default this package;
            ``dst.quantize.optimum.OptimumBackend`` has optimum do it.
        overwrite: Replace a bundle that stands at ``path``.
        progress: Called with what is being done and the share done.

    Examples:
        ``quantize_bundle("text", "text-int4", "int4-weights").weights_bytes`` is what weights of
        the shipped bundle took, and what they take now.

    Raises:
        QuantizeError: the source is not float32; a subclass says what else is wrong.
        NothingQuantizedError: no weight could be quantized; it holds the reason of each.
        BundleError: the source is broken, or the target cannot be written.
        SessionError: the quantized graphs cannot be run here.
    """
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    bundle = source if isinstance(source, Bundle) else open_bundle(source)
    check_target(Path(path), overwrite)
    backend = Direct() if backend is None else backend
    backend.check(recipe)
    check_source(bundle)
    forms = {*recipe.forms, *(o.form for o in overrides)}
    report = progress or (lambda what, share: None)
    report("reading", 0.0)
    graphs = opened(bundle, _opsets(bundle, forms))
    choices = choose({g.entry.file: g.found for g in graphs}, recipe, overrides)
    static = any(c.form == "int8-static" for c in choices.values())
    moments = recipe.blockwise and recipe.method != "rtn"
    if calibration is None and (static or recipe.method == "gptq"):
        raise QuantizeError(
            f"recipe {recipe.label}: needs to see real items; give calibration "
            "(dst quantize --calibrate FILE)",
            code="calibration",
        )
    shared = frozenset(choice.table for choice in choices.values())
    values = RoundedWeights(recipe, shared, {})
    if calibration is not None and (static or moments):
        seen = observed(bundle, bundle, graphs, calibration, moments, report)
        values = RoundedWeights(recipe, shared, seen)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = _made(bundle, graphs, choices, values, backend, folder, report)
        if not any(record.form != "float32" for record in made.records):
            raise NothingQuantizedError(f"{bundle.label}: {_nothing(recipe, made)}", made.records)
        if calibration is not None and static:
            # once more, in the states that the quantized recurrence gets into
            write_bundle(folder / "draft", made.manifest, made.files)
            driver = open_bundle(folder / "draft")
            seen = observed(bundle, driver, graphs, calibration, moments, report)
            values = RoundedWeights(recipe, shared, seen)
            made = _made(bundle, graphs, choices, values, backend, folder, report)
        report("recording golden vectors", 0.9)
        manifest, files = verify(bundle, made.manifest, made.files)
        sealed = write_bundle(path, manifest, files, overwrite=overwrite)
    report("written", 1.0)
    return Quantized(
        bundle=Bundle(Path(path), sealed),
        records=made.records,
        weights_bytes=(bundle.manifest.weights_bytes, made.on_disk),
    )


@dataclass(frozen=True, slots=True)
class _Made:
    manifest: Manifest
    files: Files
    records: tuple[WeightRecord, ...]
    on_disk: int


def _made(
    bundle: Bundle,
    graphs: Sequence[Opened],
    choices: Mapping[str, Choice],
    values: RoundedWeights,
    backend: Backend,
    folder: Path,
    report: Progress,
) -> _Made:
    """Write the graphs and a manifest that lacks only its golden runs."""
    source, recipe = bundle.manifest, values.recipe
    contract = _contract(source.contract, choices)
    parts = split_graphs(graphs, contract.chunk, choices)
    models: dict[str, onnx.ModelProto] = {}
    records: dict[str, WeightRecord] = {}
    entries: list[Graph] = []
    for number, part in enumerate(parts):
        file = part.graph.entry.file
        report(f"quantizing {file}", 0.5 + 0.4 * number / len(parts))
        models[file], found = rebuilt(part.graph, part.choices, values, backend)
        entries.append(entry_of(part.graph, models[file], part.allowed_t))
        records = found | records
    files = pack(models, bundle.root, folder)
    if any(isinstance(s.init, Stored) for s in source.contract.state):
        files[INIT_FILE] = bundle.root / INIT_FILE
    if TOKENIZER_FILE in bundle.manifest.files:
        files[TOKENIZER_FILE] = bundle.root / TOKENIZER_FILE
    files |= backend.files()
    on_disk, held = _weights_bytes(files, models)
    precision = precision_of(recipe, [record.form for record in records.values()])
    return _Made(
        manifest=msgspec.structs.replace(
            source,
            precision=precision,
            recipe=_label(recipe, precision, choices),
            producer=Producer(name="dst-edge", version=dst.__version__),
            contract=contract,
            graphs=tuple(entries),
            golden=(),
            certificates=(),
            weights_bytes=held + max(expanded_bytes(model) for model in models.values()),
            files={},
            upgraded_from=None,
        ),
        files=files,
        records=tuple(records.values()),
        on_disk=on_disk,
    )


def check_source(bundle: Bundle) -> None:
    """Refuse a bundle that recipes cannot start from: they round float32 weights.

    Raises:
        QuantizeError: what it is instead, and what to do.
    """
    precision, recipe = bundle.manifest.precision, bundle.manifest.recipe
    if recipe is not None:
        raise QuantizeError(
            f"{bundle.label}: is quantized already, by the recipe {recipe}; quantize the float32 "
            "bundle that it was made from",
            code="quantized-already",
        )
    if precision != "float32":
        what, cure = f"its weights are {precision}", _EXPORT
        if precision == "int8":
            what, cure = "its file holds int8 weights already", _COMPARE
        elif precision not in ("float64", "float16"):
            what, cure = f"most of its weights are {precision}", _ADOPT
        raise QuantizeError(
            f"{bundle.label}: {what}, and recipes round float32 weights; {cure}", code="not-float32"
        )


_ADOPT = "adopt its float32 file and quantize that"
_EXPORT = "export the model in float32 (in torch: model.float()), adopt that and quantize it"
_COMPARE = (
    "adopt the float32 file that it was made from and quantize that; dst report with "
    "--other-file compares the two"
)
"""What to do where a file was adopted in another precision."""


def _nothing(recipe: Recipe, made: _Made) -> str:
    """Say why nothing was quantized."""
    reasons = dict.fromkeys(record.reason for record in made.records)
    found = "; ".join(reasons) if reasons else "it holds no weight that a recipe knows"
    return f"nothing can be quantized by {recipe.label}: {found}; nothing was written"


def _contract(contract: Contract, choices: Mapping[str, Choice]) -> Contract:
    """Fix T where a scale spans the chunk: another T would be another model."""
    if not spans_the_chunk(choices):
        return contract
    chunk = contract.chunk
    allowed = tuple(t for t in chunk.allowed_t if t in (1, chunk.nominal_t))
    return msgspec.structs.replace(
        contract, chunk=msgspec.structs.replace(chunk, allowed_t=allowed)
    )


def _opsets(bundle: Bundle, forms: Collection[Form]) -> dict[str, int]:
    """The operator set that each graph's new forms need, by file."""
    needed = max(EMBEDDING_OPSET, *(OPSET[form] for form in forms))
    single = max(needed, OPSET["int8-block"]) if "int8-dynamic" in forms else needed
    return {g.file: single if runs_both(g) else needed for g in bundle.manifest.graphs}


def precision_of(recipe: Recipe, forms: Iterable[Form]) -> Precision:
    """Name the precision that weights really have: the recipe's own, if any weight has it.

    Args:
        recipe: The recipe.
        forms: How each weight is held.

    Examples:
        >>> from dst.quantize import RECIPES
        >>> precision_of(RECIPES["int4-weights"], ["float32", "int4-block", "int8-stored"])
        'int4'
        >>> precision_of(RECIPES["int4-weights"], ["float32", "int8-stored"])
        'int8'
    """
    held = {precision for form in forms for precision in PRECISIONS if form.startswith(precision)}
    if recipe.precision in held or not held:
        return recipe.precision
    return next(precision for precision in PRECISIONS if precision in held)


def _label(recipe: Recipe, precision: Precision, choices: Mapping[str, Choice]) -> str:
    """Name the recipe in the manifest, with what is not as the name says."""
    label = recipe.label
    if precision != recipe.precision:
        label += f", no weight in {recipe.precision}"
    return f"{label}, non-causal" if spans_the_chunk(choices) else label


def _weights_bytes(files: Files, models: Mapping[str, onnx.ModelProto]) -> tuple[int, int]:
    """What the weights take on disk, and what one open graph holds of them."""
    weights = files.get(WEIGHTS_FILE)
    shared = weights.stat().st_size if isinstance(weights, Path) else 0
    own = [
        inline_bytes(m, INLINE_BYTES, bodies_only=True) if shared else inline_bytes(m)
        for m in models.values()
    ]
    return shared + sum(own), shared + max(own)
