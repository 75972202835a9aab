"""Memory that is predicted, against what numpy says it holds; and what the process tells."""

import mmap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dst.runtime import Session, open_bundle, predict, rss_bytes
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Tokens
from dst.runtime.execution.buffers import ALIGNMENT, Layout
from dst.runtime.execution.memory import peak_rss_bytes

STREAMS = 7


def held_by_numpy() -> int:
    """Bytes of all arrays that were made since tracemalloc was started and still live."""
    only = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    traces = tracemalloc.take_snapshot().filter_traces([only]).traces
    return sum(trace.size for trace in traces)


@pytest.mark.parametrize("name", ["text", "sensor", "gain", "pad"])
def test_streams_hold_what_was_predicted(shelf: Path, name: str) -> None:
    session = Session.open(shelf / name)
    contract = session.contract
    value = 1 if isinstance(contract.chunk.content, Tokens) else 0.5
    chunks = [
        np.full(sized(contract.chunk.shape, t), value, contract.chunk.dtype)
        for t in session.chunk_sizes
    ]
    for chunk in chunks:
        session.stream().step(chunk)  # opens every graph
    tracemalloc.start()
    try:
        streams = [session.stream() for _ in range(STREAMS)]
        for stream in streams:
            for chunk in chunks:
                stream.step(chunk)
                stream.step(chunk)
        held = held_by_numpy()
    finally:
        tracemalloc.stop()
    manifest = open_bundle(shelf / name).manifest
    predicted = predict(manifest, 0, STREAMS, session.chunk_sizes).total_bytes
    aligning = STREAMS * 4 * ALIGNMENT  # each of the four blocks may begin that much later
    normalising = STREAMS * len(chunks) * 2 * 2 * 4  # mean and deviation of two features
    assert predicted <= held <= predicted + aligning + normalising


def test_the_parts_add_up_and_grow_with_the_streams(shelf: Path) -> None:
    manifest = open_bundle(shelf / "sensor").manifest
    one, many = (predict(manifest, 2, n, [4]) for n in (1, 10))
    assert one.weights_bytes == many.weights_bytes == 2 * manifest.weights_bytes
    assert many.total_bytes - many.weights_bytes == 10 * (one.total_bytes - one.weights_bytes)
    assert one.state_bytes == one.guard_bytes == 2 * Layout.of(manifest.contract).state_bytes
    assert one.waiting_bytes == (3 * 4 + 4 * 3) * 2 * 4  # three times T, four times the lookback
    chunk = (4 + 3) * 2 * (4 + 4)  # as given, and normalised
    outputs = (4 * 2 + 2) * 4
    assert one.scratch_bytes == chunk + outputs
    parts = one.weights_bytes, one.state_bytes, one.guard_bytes, one.waiting_bytes
    assert one.total_bytes == sum(parts) + one.scratch_bytes


def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = rss_bytes()
    with mmap.mmap(-1, 64 << 20) as held:  # not from the allocator, which may keep what is freed
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
    assert peak_rss_bytes() >= before + (60 << 20)
    assert rss_bytes() < before + (30 << 20)
