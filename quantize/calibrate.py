"""Run real items through a bundle and record the inputs of its products.

Shape letters: ``B`` batch (1), ``T`` items per chunk, ``L`` lookback, ``K`` inputs of a product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from dst.graphs.load import given_of
from dst.graphs.weights import EXTERNAL_FOLDER
from dst.quantize.errors import QuantizeError
from dst.quantize.rewriting.rebuild import Opened
from dst.quantize.rounded_weights import Seen, result_key
from dst.runtime import Session, Stream
from dst.runtime.bundle.layout import laid_out
from dst.runtime.bundle.manifest import Chunk, item_shape
from dst.runtime.bundle.reader import Bundle
from dst.runtime.execution.inputs import ChunkInput, check_items
from dst.runtime.golden import golden_inputs

Array = npt.NDArray[np.generic]

SAMPLED_CHUNKS = (1, 10, 100, 1000, 10_000)
"""Chunks of a stream, counted from 1, at which activations are looked at: the state is young at
the first and has seen a lot at the last."""
NEIGHBOURS = 4
"""Chunks looked at from each of them on."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Real items for a quantizer, as one or more streams.

    Attributes:
        streams: each an iterable of blocks of items ``[n, ...]``, of any length, in the
            contract's dtype; each is read once per pass, so give lists, not generators.
        sampled: chunks, counted from 1, at which activations are looked at.
    """

    streams: Sequence[Iterable[Array]]
    sampled: tuple[int, ...] = SAMPLED_CHUNKS

    @staticmethod
    def of_items(items: Array, streams: int = 4) -> Calibration:
        """Cut one long array of items ``[n, ...]`` into streams of equal length.

        Raises:
            QuantizeError: `calibration`: there are fewer items than streams.
        """
        if len(items) < streams:
            raise QuantizeError(
                f"calibration: {len(items)} items cannot be cut into {streams} streams; give more",
                code="calibration",
            )
        return Calibration([[part] for part in np.array_split(items, streams)])


def observed(
    source: Bundle,
    driver: Bundle,
    graphs: Sequence[Opened],
    calibration: Calibration,
    moments: bool,
    report: Callable[[str, float], None],
) -> dict[str, Seen]:
    """Roll streams out and look at the inputs of every product at the sampled chunks.

    The driver carries the state; what is looked at is the full-precision graph of the source,
    started from the driver's state. So the first pass drives with full precision, and a second one
    with the quantized bundle shows the states that it really gets into. With ``moments``, the mean
    of x x^T is gathered too.

    Returns:
        Key of a weight -> what was seen of its input.

    Raises:
        QuantizeError: `calibration`: the items do not fit the contract, or fill no chunk.
    """
    chunk = source.manifest.contract.chunk
    nominal = chunk.nominal_t
    graph = next((g for g in graphs if nominal in g.entry.allowed_t), None)
    if graph is None:
        raise QuantizeError(
            f"{source.label}: no graph runs the nominal T = {nominal}", code="calibration"
        )
    session = Session.open(driver.root, chunk_sizes=[nominal], verify="size")
    probe = _Probe(source, graph)
    wanted = {n + k for n in calibration.sampled for k in range(NEIGHBOURS)}
    last = max(wanted)
    seen: dict[str, Seen] = {}
    looked = 0
    for number, blocks in enumerate(calibration.streams):
        stream = session.stream(inputs=golden_inputs(source))
        for step, items in enumerate(_pieces(chunk, blocks), start=1):
            if step in wanted:
                looked += 1
                for key, values in probe.look(items, stream):
                    whole = moments and key not in probe.plain
                    seen.setdefault(key, Seen()).add(values, whole)
            stream.advance(items)
            if step >= last:
                break
            if step % 50 == 0:
                share = (number + min(step / last, 1.0)) / len(calibration.streams)
                report(f"calibrating, stream {number + 1}", 0.5 * share)
    if not looked:
        raise QuantizeError(
            f"{source.label}: calibration filled no chunk of {nominal} items; give more items",
            code="calibration",
        )
    return seen


class _Probe:
    """The full-precision graph with the inputs of its products as further outputs.

    ``plain`` are the keys of values of which only the range is wanted: they have no last axis K.
    """

    def __init__(self, source: Bundle, graph: Opened) -> None:
        self._contract = source.manifest.contract
        self._answers = graph.entry.answers
        self._chunk = ChunkInput(self._contract.chunk, self._contract.chunk.nominal_t)
        nodes = {node.name: node for node in graph.model.graph.node}
        self._keys: dict[str, list[str]] = {}
        self.plain: set[str] = set()
        for use in graph.found.uses:
            if use.role in ("embedding", "cell") or use.inside:
                continue
            node = nodes[use.node]
            self._keys.setdefault(node.input[0], []).append(use.key)
            if use.role == "filter":
                result = result_key(use.key)
                self._keys.setdefault(node.output[0], []).append(result)
                self.plain |= {use.key, result}
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        del model.graph.output[:]
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self._keys
        )
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.add_session_config_entry(EXTERNAL_FOLDER, str(source.root))
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._taken = {value.name for value in self._session.get_inputs()}

    def look(self, items: Array, stream: Stream) -> list[tuple[str, npt.NDArray[np.float32]]]:
        """Run the step that a stream is about to take: key of a weight and its input ``(..., K)``.

        A weight that several operators share comes once for each of them.
        """
        now, chunk = stream.snapshot(), self._contract.chunk
        whole = np.concatenate([now.lookback, now.pending, items])
        self._chunk.raw[...] = laid_out(chunk, whole)
        self._chunk.readable()  # which normalises it
        feeds: dict[str, Array] = {chunk.input: self._chunk.feed, **given_of(self._contract)}
        feeds |= {**now.inputs, **now.state}
        if self._answers is not None:
            feeds[self._answers] = np.arange(chunk.nominal_t, dtype=np.int64)
        fed = {name: value for name, value in feeds.items() if name in self._taken}
        values = self._session.run(list(self._keys), fed)
        found = zip(self._keys.values(), values, strict=True)
        return [(key, value) for keys, value in found for key in keys]


def _pieces(chunk: Chunk, blocks: Iterable[Array]) -> Iterator[Array]:
    """Cut blocks of items into pieces that fill a chunk each; the rest is left."""
    waiting: Array = np.zeros((0, *item_shape(chunk)), chunk.dtype)
    wanted = chunk.nominal_t + chunk.lookahead  # the look-ahead of one chunk begins the next
    for block in blocks:
        waiting = np.concatenate([waiting, check_items(chunk, block)])
        start = 0
        while start + wanted <= len(waiting):
            yield waiting[start : start + wanted]
            start, wanted = start + wanted, chunk.nominal_t
        waiting = waiting[start:]
