"""Find out whether an output of a session depends on later items of its chunk.

A dynamic scale is taken over a whole tensor, so over all items of a chunk: what comes later then
moves what came before, and another T gives other results. The operators say whether that may be;
a chunk whose last item is changed says whether it is.
"""

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from dst.evaluate.quality.distance import rows
from dst.runtime import Session
from dst.runtime.bundle.layout import laid_out
from dst.runtime.golden import golden_inputs, relative_error

Array = npt.NDArray[np.generic]

SPANNING = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
_TRIES = 8


class Causality(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    `leak` is the largest max|d|/rms of an earlier output when the last item of its chunk changed;
    `operators` are those of the graph whose scales span a chunk; `causal` says that nothing moved,
    and that there was something to move or no such operator.
    """

    causal: bool
    leak: float
    items_per_step: int
    operators: tuple[str, ...]
    note: str


def causality_of(session: Session, t: int, items: Array) -> Causality:
    """Change the last item of some chunks of T = `t` and look at the outputs before it.

    Chunks are taken from `items`, `[n]` or `[n, F]`; one that cannot be read is a `StepError`.
    """
    path = session.bundle.root / session.graph_for(t).file
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    operators = tuple(sorted({node.op_type for node in nodes} & set(SPANNING)))
    leak = max((_leak(session, t, items, k) for k in range(_TRIES)), default=0.0) if t > 1 else 0.0
    timed = any(o.per == "item" and o.dtype.startswith("float") for o in session.contract.outputs)
    hidden = bool(operators) and t > 1 and not timed  # one answer per chunk: none before the last
    spans = f"the scales of {', '.join(operators)} span the chunk"
    if hidden:
        note = (
            f"each T is another model: {spans}; one answer per chunk leaves no earlier one to "
            "look at"
        )
    elif leak == 0.0:
        note = f"causal: no output at T = {t} moved when a later item of its chunk changed"
    else:
        note = (
            f"not causal within a chunk{f' ({spans})' if operators else ''}: at T = {t} a later "
            f"item moved an output by up to {leak:.1%} of its rms; losses at this T are not those "
            "of a causal model"
        )
    return Causality(
        causal=leak == 0.0 and not hidden,
        leak=leak,
        items_per_step=t,
        operators=operators,
        note=note,
    )


def _leak(session: Session, t: int, items: Array, attempt: int) -> float:
    """Largest move of an earlier output when the last item of one chunk becomes another."""
    contract = session.contract
    first = attempt * len(items) // _TRIES
    taken = items[np.arange(first, first + t + contract.chunk.lookahead) % len(items)]
    other = items[(first + t + len(items) // 2) % len(items)]
    stream = session.stream(inputs=golden_inputs(session.bundle))
    before = stream.step(laid_out(contract.chunk, taken))
    taken[-1] = other
    stream.reset()
    after = stream.step(laid_out(contract.chunk, taken))
    timed = [o for o in contract.outputs if o.per == "item" and o.dtype.startswith("float")]
    pairs = [(rows(o, after[o.name])[:-1], rows(o, before[o.name])[:-1]) for o in timed]
    return max((relative_error(*pair) for pair in pairs), default=0.0)
