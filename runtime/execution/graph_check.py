"""Compare the inputs and outputs of an open graph with the contract of its bundle.

Shape letters: `B` batch, `T` items per chunk.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import onnxruntime as ort

from dst.runtime.bundle.manifest import Contract, DType, Graph, Shape, window
from dst.runtime.errors import SessionError

_TYPES = {f"tensor({name})": name for name in get_args(DType)}
_TYPES |= {"tensor(float)": "float32", "tensor(double)": "float64"}


class _Port(NamedTuple):
    """One input or output as the contract wants it."""

    what: str
    dtype: str
    shape: Shape
    letters: Mapping[str, frozenset[int]]

    def fits(self, shape: Sequence[int | None]) -> bool:
        """Say whether each axis is symbolic or of a size that the contract allows."""
        return len(shape) == len(self.shape) and all(
            size is None or size == wanted or size in self.letters.get(str(wanted), ())
            for size, wanted in zip(shape, self.shape, strict=True)
        )


def check_graph(
    label: str, graph: Graph, contract: Contract, session: ort.InferenceSession
) -> None:
    """Compare names, dtypes and shapes of an open graph with the contract.

    A symbolic axis of the graph fits any size; a static one must be the contract's.

    Raises:
        SessionError: `graph`: they differ; the message names the first difference.
    """
    batch = frozenset(graph.batch) or frozenset({1})
    lengths = frozenset(graph.allowed_t) if len(graph.allowed_t) == 1 else frozenset[int]()
    chunk = contract.chunk
    letters = {"B": batch, "T": lengths}
    long_letters = {"B": batch, "T": frozenset(window(chunk, t) for t in lengths)}
    inputs = {chunk.input: _Port("chunk", chunk.dtype, chunk.shape, long_letters)}
    for constant in contract.constants:
        what = f"constant `{constant.input}`"
        inputs[constant.input] = _Port(what, constant.dtype, constant.shape, letters)
    for given in contract.stream_inputs:
        what = f"stream input `{given.input}`"
        inputs[given.input] = _Port(what, given.dtype, given.shape, letters)
    if graph.answers is not None:
        inputs[graph.answers] = _Port("input of what is answered", "int64", ("A",), letters)
    outputs = {
        o.name: _Port(f"output `{o.name}`", o.dtype, o.shape, letters) for o in contract.outputs
    }
    for state in contract.state:
        what = f"state `{state.input}`"
        inputs[state.input] = _Port(what, state.dtype, state.shape, letters)
        outputs[state.output] = _Port(what, state.dtype, state.shape, letters)
    where = f"{label}: {graph.file}"
    _compare(where, "input", inputs, session.get_inputs())
    _compare(where, "output", outputs, session.get_outputs())


def _compare(where: str, kind: str, wanted: dict[str, _Port], found: Sequence[ort.NodeArg]) -> None:
    names = {node.name for node in found}
    if missing := sorted(wanted.keys() - names):
        raise SessionError(
            f"{where}: has no {kind} {missing[0]!r}, which the manifest names", code="graph"
        )
    if extra := sorted(names - wanted.keys()):
        raise SessionError(
            f"{where}: has an {kind} {extra[0]!r}, which the manifest does not name", code="graph"
        )
    for node in found:
        port = wanted[node.name]
        dtype = _TYPES.get(node.type, node.type)
        shape = [size if isinstance(size, int) else None for size in node.shape]
        spelled = "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
        if dtype != port.dtype:
            raise SessionError(
                f"{where}: {port.what} is {dtype} {spelled}, manifest says {port.dtype}",
                code="graph",
            )
        if not port.fits(shape):
            raise SessionError(
                f"{where}: {port.what} is {dtype} {spelled}, manifest says {list(port.shape)}",
                code="graph",
            )
