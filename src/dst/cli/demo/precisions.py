"""Read the same text in every precision of a model that ships.

Precisions read the same blocks in turns, so that whatever else the machine does falls on all alike;
a ratio of speeds is taken within a block.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from dst.cli.answers.scores import measure_for
from dst.cli.errors import WrongUseError
from dst.cli.inputs.reading import Reading
from dst.runtime import Session, open_bundle
from dst.runtime.bundle.reader import shipped

_BLOCK = 2048
_UNTIMED = 1  # blocks at the start, which open graphs and warm them


class PrecisionResult(msgspec.Struct, frozen=True):
    """One precision over the text; `speed_ratio` is the median over blocks, to the first one's."""

    bundle: str
    precision: str
    recipe: str | None
    weights_bytes: int
    bits_per_byte: float
    bytes_per_second: float
    speed_ratio: float


def siblings(session: Session) -> list[Path]:
    """Find the shipped bundles of the same model in other precisions, largest first."""
    ours = session.bundle.manifest
    found = [(path, open_bundle(path, verify="size").manifest) for path in shipped().values()]
    alike = [(p, m) for p, m in found if m.model_id == ours.model_id]
    others = [(p, m) for p, m in alike if m.precision != ours.precision]
    return [p for p, _ in sorted(others, key=lambda other: -other[1].weights_bytes)]


def side_by_side(
    first: Session, others: list[Path], data: bytes, told: Callable[[int], None]
) -> list[PrecisionResult]:
    """Read the text in every precision, at the nominal T, block by block in turns.

    The first 2,048 bytes are not timed. `told` is called with the bytes read so far, all precisions
    together.
    """
    blocks = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    measure = measure_for(first.contract)
    if len(blocks) <= _UNTIMED or measure is None:
        raise WrongUseError(
            f"expected a model that predicts bytes and more than {_UNTIMED * _BLOCK} of them, "
            f"{len(data)} came"
        )
    sessions = [first, *(Session.open(path, threads=first.threads) for path in others)]
    readings = [Reading(session.stream(), None, measure) for session in sessions]
    bits = [0.0] * len(sessions)
    seconds: list[list[float]] = [[] for _ in sessions]
    for number, block in enumerate(blocks):
        for turn in range(len(sessions)):
            who = (number + turn) % len(sessions)
            began = time.perf_counter()
            items = np.frombuffer(block, np.uint8).astype(np.int64)
            bits[who] += sum(scored.total for scored in readings[who].read(items))
            seconds[who].append(time.perf_counter() - began)
            told((number * len(sessions) + turn + 1) * _BLOCK)
    for who, reading in enumerate(readings):
        bits[who] += sum(scored.total for scored in reading.end())
    timed = len(b"".join(blocks[_UNTIMED:]))
    results = []
    for session, total, times in zip(sessions, bits, seconds, strict=True):
        manifest = session.bundle.manifest
        pairs = zip(seconds[0][_UNTIMED:], times[_UNTIMED:], strict=True)
        results.append(
            PrecisionResult(
                bundle=session.bundle.root.name,
                precision=manifest.precision,
                recipe=manifest.recipe,
                weights_bytes=manifest.weights_bytes,
                bits_per_byte=total / len(data),
                bytes_per_second=timed / sum(times[_UNTIMED:]),
                speed_ratio=statistics.median(full / own for full, own in pairs),
            )
        )
    return results
