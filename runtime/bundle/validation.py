"""Check the rules of a manifest that span several fields."""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import (
    Chunk,
    Constant,
    Contract,
    DType,
    Features,
    Fill,
    Gate,
    Manifest,
    Output,
    Quality,
    Shape,
    State,
    Stored,
    Tokens,
    item_shape,
    normalised_in,
    window,
)
from dst.runtime.errors import BundleError

MANIFEST_FILE = "manifest.json"
INIT_FILE = "init.safetensors"
TOKENIZER_FILE = "tokenizer.json"
MAX_TENSOR_FILE_BYTES = 1 << 30
MAX_STREAM_BYTES = 1 << 32
_PLAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9_-])?")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # of Windows


def check(manifest: Manifest) -> None:
    """Check every rule that needs nothing but the manifest.

    Raises:
        BundleError: `contract`: fields contradict each other; the message names them.
        BundleError: `path-outside`: a listed name is not a plain file name.
        BundleError: `file-too-large`: a file or a tensor is larger than this runtime will hold.
    """
    check_contract(manifest.contract)
    for name in manifest.files:
        check_name(name)
    _unique("file (letter case aside)", [name.lower() for name in manifest.files])
    _sizes(manifest)
    _graphs(manifest)
    _golden(manifest)
    for certificate in manifest.certificates:
        count = len(certificate.curve.steps)
        for tensor, values in certificate.curve.tensors.items():
            if len(values) != count:
                where = f"certificate {certificate.name!r}: tensor {tensor!r}"
                _refuse(f"{where} has {len(values)} points for {count} steps")
    if manifest.quality is not None:
        if is_full_precision(manifest):
            _refuse("quality is given for full precision, which strays from nothing; expected null")
        _quality(manifest.quality)
    half_life = manifest.horizon.half_life_items
    if half_life is not None and half_life <= 0:
        _refuse(f"horizon.half_life_items is {half_life}; give a positive number, or null")
    needs_init = any(isinstance(s.init, Stored) for s in manifest.contract.state)
    if needs_init and INIT_FILE not in manifest.files:
        _refuse(f"a state tensor is stored, but {INIT_FILE} is not listed in files")
    content = manifest.contract.chunk.content
    reads_text = isinstance(content, Tokens) and content.tokenizer == "tokenizers"
    if reads_text and TOKENIZER_FILE not in manifest.files:
        _refuse(f"the tokenizer is `tokenizers`, but {TOKENIZER_FILE} is not listed in files")


def check_contract(contract: Contract) -> None:
    """Check the rules of a contract alone.

    Raises:
        BundleError: `contract`: fields contradict each other; the message names them.
    """
    _chunk(contract.chunk)
    _unique("graph input", _inputs(contract))
    outputs = [o.name for o in contract.outputs] + [s.output for s in contract.state]
    _unique("graph output", outputs)
    if not contract.outputs:
        _refuse("contract.outputs is empty; a step must answer something")
    for constant in contract.constants:
        _constant(constant)
    for given in contract.stream_inputs:
        _letters(f"stream input {given.input!r}", given.shape, may="B")
    for output in contract.outputs:
        _output(output)
    for state in contract.state:
        _state(state)


def is_full_precision(manifest: Manifest) -> bool:
    """Say whether a bundle runs the model as it was trained: float32, by no recipe."""
    return manifest.recipe is None and manifest.precision == "float32"


def check_name(name: str) -> None:
    """Check that a listed name is a plain file name: a bundle is one flat directory.

    Raises:
        BundleError: `path-outside`: it could leave the directory, or would not work on every
            platform.

    Examples:
        >>> check_name("step_t1.onnx")
        >>> check_name("../step.onnx")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dst.runtime.errors.BundleError: manifest.json: files lists '../step.onnx'; expected ...
    """
    if not _PLAIN.fullmatch(name) or name.lower() == MANIFEST_FILE or _DEVICE.fullmatch(name):
        raise BundleError(
            f"manifest.json: files lists {name!r}; expected a plain file name of letters, digits, "
            f"`_`, `-` and `.`, other than {MANIFEST_FILE} and no device of Windows such as `nul`",
            code="path-outside",
        )


def _refuse(message: str) -> None:
    raise BundleError(f"manifest: {message}", code="contract")


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _refuse(f"{what} {name!r} is named twice")
        seen.add(name)


def _letters(where: str, shape: Shape, must: str = "", may: str = "") -> None:
    """Check that each letter stands once where it must, and that all else is a size."""
    for letter in must:
        if shape.count(letter) != 1:
            _refuse(f"{where}: shape {list(shape)} needs one {letter!r}")
    for axis, size in enumerate(shape):
        if isinstance(size, str):
            if size not in tuple(must + may) or shape.count(size) > 1:
                _refuse(f"{where}: unexpected {size!r} at axis {axis} of shape {list(shape)}")
        elif size < 1:
            _refuse(f"{where}: axis {axis} of shape {list(shape)} is {size}, expected at least 1")


def _finite(where: str, values: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        _refuse(f"{where} holds a NaN or an infinity")


def _fits(where: str, dtype: DType, values: Sequence[float]) -> None:
    """Every value is finite and within the range of the dtype."""
    _finite(where, values)
    least: float = 0
    most: float = 1
    if dtype.startswith("float"):
        least, most = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    elif dtype != "bool":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    for value in values:
        if not least <= value <= most:
            _refuse(f"{where} holds {value}, which {dtype} cannot; expected {least} .. {most}")


def _chunk(chunk: Chunk) -> None:
    _letters("chunk", chunk.shape, must="BT")
    if not chunk.allowed_t:
        _refuse("chunk.allowed_t is empty; give at least nominal_t")
    if list(chunk.allowed_t) != sorted(set(chunk.allowed_t)):
        _refuse(f"chunk.allowed_t is {list(chunk.allowed_t)}; expected rising, each once")
    if chunk.nominal_t not in chunk.allowed_t:
        _refuse(f"chunk.nominal_t {chunk.nominal_t} is not in allowed_t {list(chunk.allowed_t)}")
    if chunk.tail == "exact" and 1 not in chunk.allowed_t:
        _refuse(f"chunk.tail is `exact`, which needs 1 in allowed_t {list(chunk.allowed_t)}")
    if chunk.tail == "exact" and chunk.lookahead:
        _refuse(
            f"chunk.tail is `exact` with lookahead {chunk.lookahead}, and nothing follows the last "
            "items; choose `pad` or `refuse`"
        )
    if chunk.tail == "exact" and not chunk.causal and len(chunk.allowed_t) > 1:
        _refuse(
            f"chunk.tail is `exact` and causal is false: with T of {list(chunk.allowed_t)} each T "
            "answers otherwise; choose `pad` or `refuse`, or allow T = 1 alone"
        )
    if (chunk.pad_value is None) == (chunk.tail == "pad"):
        _refuse(f"chunk.pad_value is {chunk.pad_value} with tail `{chunk.tail}`: give both or none")
    if (chunk.lookback_fill is None) == (chunk.lookback > 0):
        _refuse(f"chunk.lookback_fill is {chunk.lookback_fill} with lookback {chunk.lookback}")
    fills = [value for value in (chunk.pad_value, chunk.lookback_fill) if value is not None]
    _finite("chunk.pad_value or lookback_fill", fills)
    if isinstance(chunk.content, Tokens):
        _tokens(chunk, chunk.content, fills)
    else:
        _features(chunk, chunk.content)
        _fits("chunk.pad_value or lookback_fill", chunk.dtype, fills)


def _tokens(chunk: Chunk, content: Tokens, fills: Sequence[float]) -> None:
    if chunk.dtype not in ("int64", "int32", "uint8"):
        _refuse(f"chunk.dtype is {chunk.dtype}; tokens are int64, int32 or uint8")
    if len(chunk.shape) != 2:
        _refuse(f"chunk.shape is {list(chunk.shape)}; tokens have a batch and a time axis only")
    if content.tokenizer == "bytes" and content.vocabulary < 256:
        _refuse(f"tokenizer `bytes` needs a vocabulary of 256, not {content.vocabulary}")
    if chunk.dtype == "uint8" and content.vocabulary > 256:
        _refuse(f"a vocabulary of {content.vocabulary} does not fit dtype uint8")
    for value in fills:
        if not (value.is_integer() and 0 <= value < content.vocabulary):
            _refuse(f"pad or lookback fill {value} is no token below {content.vocabulary}")


def _features(chunk: Chunk, content: Features) -> None:
    if chunk.dtype not in ("float32", "float16", "float64"):
        _refuse(f"chunk.dtype is {chunk.dtype}; features are float16, float32 or float64")
    fixed = item_shape(chunk)
    count = math.prod(fixed)
    if content.names and len(fixed) > 1:
        _refuse(
            f"chunk.shape is {list(chunk.shape)} and {len(content.names)} features are named; "
            "names label one axis besides B and T, leave them out where there are more"
        )
    if content.names and len(content.names) != count:
        _refuse(f"{len(content.names)} feature names for {count} features")
    _unique("feature", content.names)
    if content.sample_rate_hz is not None and content.sample_rate_hz <= 0:
        _refuse(f"sample_rate_hz is {content.sample_rate_hz}; give a positive number, or null")
    if content.normalisation is not None:
        mean, std = content.normalisation.mean, content.normalisation.std
        _fits("normalisation", chunk.dtype, (*mean, *std))
        if len(mean) != count or len(std) != count:
            _refuse(f"normalisation has {len(mean)} means and {len(std)} stds for {count} features")
        if not (np.asarray(std, normalised_in(chunk)) > 0).all():  # a tiny one is 0 in that dtype
            _refuse(
                f"normalisation.std holds {min(std)}; expected numbers above 0 in "
                f"{normalised_in(chunk)}"
            )


def _constant(constant: Constant) -> None:
    size = math.prod(constant.shape)
    if len(constant.values) != size:
        _refuse(f"constant {constant.input!r} has {len(constant.values)} values for {size} places")
    _fits(f"constant {constant.input!r}", constant.dtype, constant.values)
    whole = all(isinstance(value, int) for value in constant.values)
    if not whole and not constant.dtype.startswith("float"):
        _refuse(f"constant {constant.input!r} is {constant.dtype} and holds a fraction")


def _output(output: Output) -> None:
    where = f"output {output.name!r}"
    _letters(where, output.shape, must="B", may="T")
    if output.meaning != "custom" and not output.dtype.startswith("float"):
        _refuse(f"{where}: {output.meaning} in {output.dtype}; expected a float dtype")
    if (output.meaning == "quantiles") != bool(output.levels):
        _refuse(f"{where}: levels {list(output.levels)} with meaning `{output.meaning}`")
    if any(not 0 < level < 1 for level in output.levels):
        _refuse(f"{where}: levels {list(output.levels)}; expected each in (0, 1)")
    if output.levels and output.shape[-1] != len(output.levels):
        _refuse(f"{where}: {len(output.levels)} levels, last axis {output.shape[-1]}")


def _state(state: State) -> None:
    where = f"state {state.input!r}"
    _letters(where, state.shape, must="B")
    if isinstance(state.init, Fill):
        _fits(f"{where}: init", state.dtype, [state.init.value])
        if not state.dtype.startswith("float") and not state.init.value.is_integer():
            _refuse(f"{where}: {state.dtype} cannot start at {state.init.value}")


def _sizes(manifest: Manifest) -> None:
    """Nothing that is read whole, and no buffer of a stream, may exceed its cap."""
    for name in {INIT_FILE, TOKENIZER_FILE, *(golden.file for golden in manifest.golden)}:
        entry = manifest.files.get(name)
        if entry is not None and entry.size > MAX_TENSOR_FILE_BYTES:
            raise BundleError(
                f"manifest: {name} has {entry.size} bytes, the cap is {MAX_TENSOR_FILE_BYTES}",
                code="file-too-large",
            )
    contract, chunk = manifest.contract, manifest.contract.chunk
    longest = window(chunk, max(chunk.allowed_t))
    shapes = [chunk.shape, *(o.shape for o in contract.outputs)]
    shapes += [s.shape for s in contract.state] + [g.shape for g in contract.stream_inputs]
    items = sum(math.prod(sized(shape, longest)) for shape in shapes)
    if items * 8 > MAX_STREAM_BYTES:
        raise BundleError(
            f"manifest: one stream's tensors hold {items} values at T = {longest}; "
            f"the cap is {MAX_STREAM_BYTES // 8}",
            code="file-too-large",
        )


def _inputs(contract: Contract) -> list[str]:
    """The names of what every graph reads."""
    names = [contract.chunk.input, *(g.input for g in contract.stream_inputs)]
    return names + [c.input for c in contract.constants] + [s.input for s in contract.state]


def _graphs(manifest: Manifest) -> None:
    allowed = set(manifest.contract.chunk.allowed_t)
    covered: set[int] = set()
    if not manifest.graphs:
        _refuse("graphs is empty; a bundle needs at least one")
    _unique("graph file", [graph.file for graph in manifest.graphs])
    for graph in manifest.graphs:
        where = f"graph {graph.file!r}"
        if graph.file not in manifest.files:
            _refuse(f"{where} is not listed in files")
        if not graph.allowed_t or not allowed.issuperset(graph.allowed_t):
            _refuse(f"{where}: allowed_t {list(graph.allowed_t)}, contract {sorted(allowed)}")
        if not set(graph.domains) <= set(graph.opsets):
            _refuse(f"{where}: domains {list(graph.domains)}, opsets for {sorted(graph.opsets)}")
        if not (math.isfinite(graph.golden_tolerance) and graph.golden_tolerance >= 0):
            _refuse(f"{where}: golden_tolerance is {graph.golden_tolerance}")
        if graph.answers is not None:
            _unique(f"{where}: input", [*_inputs(manifest.contract), graph.answers])
            if all(output.per == "chunk" for output in manifest.contract.outputs):
                _refuse(f"{where}: answers is {graph.answers!r}, and no output is per item")
        covered.update(graph.allowed_t)
    if covered != allowed:
        _refuse(f"no graph runs T = {sorted(allowed - covered)} of chunk.allowed_t")


def _golden(manifest: Manifest) -> None:
    allowed = manifest.contract.chunk.allowed_t
    for golden in manifest.golden:
        if golden.file not in manifest.files:
            _refuse(f"golden file {golden.file!r} is not listed in files")
        if golden.t not in allowed:
            _refuse(f"golden T = {golden.t} is not in chunk.allowed_t {list(allowed)}")
    if len({golden.t for golden in manifest.golden}) != len(manifest.golden):
        _refuse("golden has two entries for one T")


def _quality(quality: Quality) -> None:
    """The curves have one value per position, and the verdicts follow from the values."""
    positions = quality.positions
    if not positions or list(positions) != sorted(set(positions)) or positions[0] < 1:
        _refuse(f"quality.positions is {list(positions)}; expected rising from 1 or more")
    for name in ("divergence", "state_distance", "loss_difference"):
        values = getattr(quality, name)
        if values is not None and len(values) != len(positions):
            _refuse(f"quality.{name} has {len(values)} values for {len(positions)} positions")
    for gate in quality.gates:
        right = judged_gate(gate.name, gate.value, gate.bound).verdict
        if gate.verdict != right:
            _refuse(f"quality: gate {gate.name!r} is `{gate.verdict}`, its value says `{right}`")
    if quality.passed is not passed(quality.gates):
        verdicts = sorted({gate.verdict for gate in quality.gates})
        _refuse(f"quality.passed is {quality.passed}, its gates say {verdicts}")


def judged_gate(name: str, value: float | None, bound: float) -> Gate:
    """Return a gate with the verdict that follows from its value."""
    if value is None:
        return Gate(name=name, bound=bound, verdict="not judged")
    held = value <= bound
    return Gate(name=name, value=value, bound=bound, verdict="passed" if held else "failed")


def passed(gates: Iterable[Gate]) -> bool | None:
    """Say whether all gates passed: False where one failed, None where one was not judged."""
    verdicts = {gate.verdict for gate in gates}
    if "failed" in verdicts:
        return False
    return None if "not judged" in verdicts else True
