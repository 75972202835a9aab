"""Time a provider against the CPU, step by step in turns, on the golden chunks of a bundle.

Shape letters: `T` items per chunk.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.reader import Bundle
from dst.runtime.execution.engine import select
from dst.runtime.execution.providers import Lowering, Options, Provider
from dst.runtime.golden import golden_chunks, golden_engine, golden_runs, golden_stream
from dst.runtime.stream import Stream

Array = npt.NDArray[np.generic]
ROUNDS = 30


@dataclass(frozen=True, slots=True)
class GoldenTime:
    """How fast a provider steps one graph, against the CPU provider on the same graph.

    `steps` were timed on each of the two at T = `t`; seconds are medians of a step, and `ratio` is
    the median over pairs of neighbouring steps of provider / CPU: below 1 is faster.
    """

    graph: str
    t: int
    steps: int
    seconds: float
    cpu_seconds: float
    ratio: float


def time_golden(
    bundle: Bundle,
    provider: Provider,
    threads: int = 1,
    lowering: Lowering | None = None,
    provider_options: Options | None = None,
    rounds: int = ROUNDS,
    progress: Callable[[float], None] | None = None,
) -> list[GoldenTime]:
    """Step each graph over its golden chunks, on the provider and on the CPU in turn.

    Both carry their own state over all rounds, in each of which the golden chunks are read.
    Copies to and from a device are part of a step. Without a lowering, all graphs are timed that
    suit the provider; `progress` is told of the share done.

    Raises:
        SessionError: a graph cannot be run here.
        BundleError: `golden-tensors`: a golden file breaks its layout.
    """
    graphs = select(bundle, lowering, provider, every=True)
    found: list[GoldenTime] = []
    for number, graph in enumerate(graphs):
        engine = golden_engine(bundle, graph, provider, threads, provider_options, 1 << 30)
        beside = golden_engine(bundle, graph, "cpu", threads, None, 1 << 30)
        runs = golden_runs(bundle.manifest, graph)
        if not runs:
            continue
        there, here = (golden_stream(each, runs[0][0]) for each in (engine, beside))
        for t, chunks in golden_chunks(engine, graph):
            for chunk in chunks:
                there.step(chunk)
                here.step(chunk)
            pairs: list[tuple[float, float]] = []
            for done in range(rounds):
                pairs += [_pair(there, here, chunk, done % 2 == 0) for chunk in chunks]
                if progress is not None:
                    progress((number + done / rounds) / len(graphs))
            found.append(
                GoldenTime(
                    graph=graph.file,
                    t=t,
                    steps=len(pairs),
                    seconds=statistics.median(p for p, _ in pairs),
                    cpu_seconds=statistics.median(c for _, c in pairs),
                    ratio=statistics.median(p / c for p, c in pairs),
                )
            )
    return found


def _pair(there: Stream, here: Stream, chunk: Array, there_first: bool) -> tuple[float, float]:
    """Step both on one chunk; who comes first changes from round to round."""
    if there_first:
        return _seconds(there, chunk), _seconds(here, chunk)
    cpu = _seconds(here, chunk)
    return _seconds(there, chunk), cpu


def _seconds(stream: Stream, chunk: Array) -> float:
    start = time.perf_counter()
    stream.step(chunk, copy=False)
    return time.perf_counter() - start
