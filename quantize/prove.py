"""Graphs of a quantized bundle in, its golden vectors and their tolerance out.

Shape letters: ``B`` batch (1), ``T`` items per chunk.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from dst.runtime import Session, Stream
from dst.runtime.bundle import Bundle, open_bundle, write_bundle
from dst.runtime.golden import golden_tensors, relative_error, replay_golden
from dst.runtime.manifest import Golden, Manifest

Array = npt.NDArray[np.generic]

GOLDEN_FILE = "golden.safetensors"
SINGLE_STEPS = 32
"""Steps of the recorded run at T = 1."""
NOISE = 1e-5
"""Size of the disturbance, as a share of each value: so far may two float32 forms of a step be
apart (the bound of certificates)."""
DISTURBED_RUNS = 3
MARGIN = 2.0
"""A tolerance over the largest difference that was seen here."""


def proved(
    source: Bundle, manifest: Manifest, files: Mapping[str, bytes | Path]
) -> tuple[Manifest, dict[str, bytes | Path]]:
    """Record the source's golden chunks again, now with the quantized graphs.

    Rounding makes steps of differences: where float32 moves by its last bit, a rounded value may
    move by a whole step. The runs are recorded at the nominal T, and at T = 1 where that is
    allowed, and the tolerance is ``MARGIN`` times the larger of two things: how far the bundle's
    graphs stray from the records, and how far a run strays whose state is disturbed before every
    step by ``NOISE`` of each value, which is what another CPU's order of sums does.

    Args:
        source: The full-precision bundle.
        manifest: Of the quantized bundle, complete but for its golden runs.
        files: Its files.

    Returns:
        The manifest and the files with golden runs.
    """
    if not source.manifest.golden:
        return manifest, dict(files)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft"
        write_bundle(draft, msgspec.structs.replace(manifest, golden=()), files)
        session = Session.open(draft, verify="size")
        runs, tensors, strayed = _record(source, session)
        content = safetensors.numpy.save(
            {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        )
        complete = {**files, GOLDEN_FILE: content}
        whole = msgspec.structs.replace(manifest, golden=runs)
        write_bundle(draft, whole, complete, overwrite=True)
        replayed = replay_golden(open_bundle(draft))
    among = [error for check in replayed for error in check.errors.values()]
    tolerance = _rounded_up(MARGIN * max(strayed, *among))
    graphs = tuple(
        msgspec.structs.replace(g, golden_tolerance=max(tolerance, g.golden_tolerance))
        for g in whole.graphs
    )
    return msgspec.structs.replace(whole, graphs=graphs), complete


def _record(source: Bundle, session: Session) -> tuple[tuple[Golden, ...], dict[str, Array], float]:
    """Run the golden chunks; also say how far disturbed runs stray."""
    runs: list[Golden] = []
    tensors: dict[str, Array] = {}
    strayed = 0.0
    for t, chunks in sorted(_chunks(source, session).items()):
        found = _run(session, t, chunks, None)
        for seed in range(DISTURBED_RUNS):
            other = _run(session, t, chunks, np.random.default_rng(seed))
            strayed = max(strayed, *(relative_error(other[k], v) for k, v in found.items()))
        tensors |= found
        runs.append(Golden(file=GOLDEN_FILE, t=t, steps=len(chunks)))
    return tuple(runs), tensors, strayed


def _chunks(source: Bundle, session: Session) -> dict[int, list[Array]]:
    """The source's golden chunks by T; those of the nominal T also cut into single items."""
    chunk = session.contract.chunk
    held = {
        golden.t: list(source.tensors(golden.file)[f"t{golden.t}/chunk"])
        for golden in source.manifest.golden
        if golden.t in session.chunk_sizes
    }
    if 1 in session.chunk_sizes and 1 not in held and chunk.nominal_t in held:
        items = np.concatenate(held[chunk.nominal_t], chunk.time_axis)
        count = min(SINGLE_STEPS, items.shape[chunk.time_axis])
        held[1] = [items.take([i], chunk.time_axis) for i in range(count)]
    return held


def _run(
    session: Session, t: int, chunks: Sequence[Array], noise: np.random.Generator | None
) -> dict[str, Array]:
    """Step through chunks from the initial state, disturbing the state where noise is given."""
    stream = session.stream()
    outputs: dict[str, list[Array]] = {o.name: [] for o in session.contract.outputs}
    for piece in chunks:
        if noise is not None:
            _disturb(session, stream, noise)
        for name, value in stream.step(np.ascontiguousarray(piece)).items():
            outputs[name].append(value)
    return golden_tensors(t, chunks, outputs, stream.state)


def _disturb(session: Session, stream: Stream, noise: np.random.Generator) -> None:
    """Move every value of the state a little; whole numbers count or mask, and stay."""
    now = stream.snapshot()
    for value in session.layout.views(now.block).values():
        if value.dtype.kind == "f":
            wide = value.astype(np.float64)
            moved = wide * (1 + NOISE * noise.standard_normal(value.shape))
            value[...] = np.where(wide == np.rint(wide), wide, moved)
    stream.restore(now)


def _rounded_up(value: float) -> float:
    """Round up to one digit: 0.0123 -> 0.02."""
    if value <= 0:
        return value
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / unit) * unit:.1g}")
