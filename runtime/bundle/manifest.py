"""Define what a manifest can hold: a frozen struct for each table of FORMAT.md, which tells fields.

A shape is a tuple of sizes and letters: `B` is the batch, `T` the items of a chunk. Each letter
stands at most once, so the shape alone says which axis is which. A field that has a default is
left out of the manifest where it holds that default. Rules that span several fields are in
`dst.runtime.bundle.validation`.
"""

from typing import Annotated, Literal

import msgspec

FORMAT = "dst-bundle"
FORMAT_VERSION = 2

MAX_AXES = 16
Size = Annotated[int, msgspec.Meta(le=2**31 - 1)]
Shape = Annotated[tuple[Size | str, ...], msgspec.Meta(max_length=MAX_AXES)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Name = Annotated[
    str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^(?!__proto__\Z)[^\x00]*\Z")
]
NodeName = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Tail = Literal["exact", "pad", "refuse"]
"""What is done with the items at the end of an input that fill no chunk."""
DType = Literal["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"]


class Tokens(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="tokens"
):
    """Chunk items are ids in `[0, vocabulary)`; `tokenizer` says how text becomes ids."""

    vocabulary: Positive
    tokenizer: Literal["bytes", "tokenizers", "none"] = "none"


class Normalisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runtime feeds the graph `(item - mean) / std`, for each value of an item in C order."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Features(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="features"
):
    """Chunk items are real values; `names` label the axis that is neither batch nor time."""

    names: tuple[Name, ...] = ()
    sample_rate_hz: float | None = None
    normalisation: Normalisation | None = None


class Chunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one step reads.

    `T` in `shape` counts the new items only; the graph's input has `lookback + T + lookahead` items
    along that axis. A chunk waits until the `lookahead` items behind it are there; they are read
    again as items of the next chunk. `lookback_fill` and `pad_value` are items as the caller gives
    them, before normalisation.

    Examples:
        >>> content = Features()
        >>> chunk = Chunk(
        ...     input="x", dtype="float32", shape=("B", 4, "T"), nominal_t=8, allowed_t=(1, 8),
        ...     content=content,
        ... )
        >>> chunk.batch_axis, chunk.time_axis
        (0, 2)
    """

    input: Name
    dtype: DType
    shape: Shape
    nominal_t: Positive
    allowed_t: tuple[Positive, ...]
    content: Tokens | Features
    lookback: Count = 0
    lookback_fill: float | None = None
    tail: Tail = "exact"
    pad_value: float | None = None
    lookahead: Count = 0
    causal: bool = True

    @property
    def batch_axis(self) -> int:
        """Where `B` stands in the shape."""
        return self.shape.index("B")

    @property
    def time_axis(self) -> int:
        """Where `T` stands in the shape."""
        return self.shape.index("T")


def item_shape(chunk: Chunk) -> tuple[int, ...]:
    """Return the shape of one item of a chunk."""
    return tuple(size for size in chunk.shape if not isinstance(size, str))


def normalised_in(chunk: Chunk) -> DType:
    """Return the dtype in which features are normalised: a difference may exceed float16."""
    return "float32" if chunk.dtype == "float16" else chunk.dtype


def window(chunk: Chunk, t: int) -> int:
    """Return how many items the graph reads in one step: lookback, the chunk and look-ahead."""
    return chunk.lookback + t + chunk.lookahead


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A further graph input that has the same value in every step; `values` in C order."""

    input: Name
    dtype: DType
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=MAX_AXES)]
    values: tuple[Whole | float, ...]


class StreamInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A further graph input that is given once when a stream starts, such as who speaks."""

    input: Name
    dtype: DType
    shape: Shape


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one step answers: per item where `shape` has a `"T"`, per chunk where it has none.

    Examples:
        >>> Output(name="peak", dtype="float32", shape=("B", 3)).per
        'chunk'
    """

    name: Name
    dtype: DType
    shape: Shape
    meaning: Literal["logits", "gaussian", "quantiles", "custom"] = "custom"
    levels: tuple[float, ...] = ()

    @property
    def batch_axis(self) -> int:
        """Where `B` stands in the shape."""
        return self.shape.index("B")

    @property
    def time_axis(self) -> int | None:
        """Where `T` stands in the shape; None for an output per chunk."""
        return self.shape.index("T") if "T" in self.shape else None

    @property
    def per(self) -> Literal["item", "chunk"]:
        """What one answer is for."""
        return "item" if "T" in self.shape else "chunk"


class Zeros(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="zeros"):
    """The tensor starts at zero."""


class Fill(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fill"):
    """The tensor starts at one finite value everywhere."""

    value: float


class Stored(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="stored"
):
    """The tensor starts as `tensor` of init.safetensors, whose batch axis has length 1."""

    tensor: Name


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One tensor of the state: `input` before the step, `output` after it."""

    input: Name
    output: Name
    dtype: DType
    shape: Shape
    init: Zeros | Fill | Stored = Zeros()
    role: Literal["memory", "window", "conv", "counter"] = "memory"

    @property
    def batch_axis(self) -> int:
        """Where `B` stands in the shape."""
        return self.shape.index("B")


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What goes into a step and comes out; every graph of the bundle keeps it."""

    chunk: Chunk
    constants: tuple[Constant, ...] = ()
    stream_inputs: tuple[StreamInput, ...] = ()
    outputs: tuple[Output, ...]
    state: tuple[State, ...]


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ONNX file that runs the contract.

    `batch` lists the batch sizes it runs, empty for any. `opsets` are the imported versions
    by domain and `domains` those its nodes use; the default ONNX domain is `ai.onnx`.
    `golden_tolerance` bounds the error of each golden tensor: max|d|/rms, or, where the run records
    what the recipe costs, ||d|| over that. `multiply_adds` says what each
    node costs in one step at the nominal T, or the greatest it runs, with B = 1; a node whose
    cost is not known is missing. `answers` names a further input of the graph, int64 `[A]`: the
    items of the chunk that are answered for, counted from 0. Outputs per item then have A in the
    place of T, so that a caller who wants the last answer only does not pay for all of them.
    """

    file: Name
    lowering: Literal["fused", "portable", "other"] = "other"
    allowed_t: tuple[Positive, ...]
    batch: tuple[Positive, ...] = ()
    opsets: dict[Name, Positive]
    domains: tuple[Name, ...] = ("ai.onnx",)
    min_ort: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,6}\.[0-9]{1,6}(\.[0-9]{1,6})?\Z")]
    golden_tolerance: float
    multiply_adds: dict[NodeName, Count] = {}
    answers: Name | None = None


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A recorded run of `steps` chunks of T = `t` from the initial state, in `file`."""

    file: Name
    t: Positive
    steps: Positive


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Largest error (max|d|/rms) since the point before: `tensors[name][i]` at `steps[i]`."""

    steps: tuple[Count, ...]
    tensors: dict[Name, tuple[float, ...]]


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A measured equivalence, e.g. `torch-vs-fused`: what was run, how far it strayed.

    Errors are max|d|/rms of the reference at the same place of the stream. It passed where `worst`
    and `worst_state_of_peak` (max|d|/max|x|) are at most `bound`, and no tensor's mean error over
    the last tenth of the steps is more than `decile_ratio_bound` times that over the first.
    """

    name: Name
    steps: Positive
    items_per_step: Positive
    data: str
    bound: float
    decile_ratio_bound: float
    passed: bool
    curve: Curve
    worst: float
    worst_state: float
    worst_state_of_peak: float
    decile_ratio: float


class Horizon(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long the memory can hold a fact: half-life in items, None for no decay."""

    half_life_items: float | None = None


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One condition on a quality: it holds where `value`, None if unknown, is at most `bound`."""

    name: Name
    value: float | None = None
    bound: float
    verdict: Literal["passed", "failed", "not judged"]


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a quantized bundle strays from full precision, over the positions of a stream.

    Entry i of the curves is the mean over the positions from `positions[i - 1]` (0 for the first)
    to `positions[i]`: `divergence` from full precision (`nats`: KL per item; `relative`: error over
    rms), `loss_difference` in nats per item, `state_distance` relative. `passed` is None where no
    gate failed and one was not judged.
    """

    full: Hash
    items: Positive
    items_per_step: Positive
    data: str
    unit: Literal["nats", "relative"]
    positions: tuple[Count, ...]
    divergence: tuple[float, ...]
    loss_difference: tuple[float, ...] | None = None
    state_distance: tuple[float | None, ...]
    causal: bool
    gates: tuple[Gate, ...]
    passed: bool | None = None


class Producer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The program that wrote the bundle."""

    name: Name
    version: str


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The SHA-256 and the size in bytes of one file of the bundle."""

    sha256: Hash
    size: Count


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All a reader knows of a bundle.

    The writer of a new bundle gives everything but `files`, `state_hash` and `bundle_id`,
    which `dst.runtime.write_bundle` fills in. `model_id` is the SHA-256 of the source float32
    weights; every lowering and precision of one model shares it.
    """

    name: Name
    description: str = ""
    license: str = ""
    model_id: Hash
    precision: Name = "float32"
    recipe: str | None = None
    producer: Producer
    contract: Contract
    graphs: tuple[Graph, ...]
    golden: tuple[Golden, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    horizon: Horizon = Horizon()
    weights_bytes: Count
    quality: Quality | None = None
    upgraded_from: Hash | None = None
    files: dict[Name, FileEntry] = {}
    state_hash: str = ""
    bundle_id: str = ""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION
