"""Choose how many threads a session uses by a short measurement, and remember it for this machine.

A thread that waits for work may sleep, or spin: keep its core busy, so that it starts at once. That
is faster where the core is free and slower where it is not, so it is measured too.

Shape letters: `T` items per chunk.
"""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from dst.runtime.bundle.layout import sized
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import GivenInputs
from dst.runtime.execution.recurrence import Recurrence

SECONDS = 0.15
"""For how long each choice is measured."""
LEAST_STEPS = 3
WORTH = 1.1
"""More threads, and spinning, are taken if they are at least so many times as fast."""


class Threads(NamedTuple):
    """How a session works in parallel.

    Attributes:
        number: threads inside one operator.
        spin: whether they spin while they wait.
    """

    number: int
    spin: bool = False


def fastest(engine_of: Callable[[Threads], Engine], cores: int, cache: Path | None) -> Threads:
    """Find the fastest choice for the largest T that a session runs, up to the nominal T.

    Args:
        engine_of: opens the bundle with a choice of threads.
        cores: how many cores there are.
        cache: the folder where the choice is remembered; None for nowhere.

    Returns:
        The choice.
    """
    first = engine_of(Threads(1))
    file = None if cache is None else cache / f"threads-{_key(first, cores)}.json"
    found = None if file is None else _remembered(file, cores)
    if found is not None:
        return found
    best, least = Threads(1), _seconds(first)
    for choice in _choices(cores):
        spent = _seconds(engine_of(choice))
        if spent * WORTH < least:
            best, least = choice, spent
    if file is not None:
        _remember(file, best)
    return best


def cache_folder() -> Path | None:
    """Return the user's folder for what can be measured again; None where there is none."""
    named = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or ""
    try:
        return (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "dst-edge"
    except RuntimeError:  # no home
        return None


def available_cores() -> int:
    """Count the cores that this process may use, where the system tells; else all."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return (len(allowed(0)) if allowed else os.cpu_count()) or 1


def _choices(cores: int) -> Iterator[Threads]:
    """All choices but one thread, the cheapest first."""
    count = 2
    while count <= cores:
        yield Threads(count)
        yield Threads(count, spin=True)
        count *= 2


def _seconds(engine: Engine) -> float:
    """Measure one step: the least of some, which what else the machine does disturbs least."""
    contract = engine.contract
    given = {g.input: np.zeros(sized(g.shape, 0, 1), g.dtype) for g in contract.stream_inputs}
    core = Recurrence(engine)
    core.reset(GivenInputs.of(contract, given))
    nominal, sizes = contract.chunk.nominal_t, engine.chunk_sizes
    step = core.step_for(max((t for t in sizes if t <= nominal), default=min(sizes)))
    least, steps, end = float("inf"), 0, time.perf_counter() + SECONDS
    while steps < LEAST_STEPS or time.perf_counter() < end:
        start = time.perf_counter()
        step.call(core.position.active)
        least = min(least, time.perf_counter() - start)
        steps += 1
    return least


def _key(engine: Engine, cores: int) -> str:
    """Name what was measured: this bundle and these T, on this machine with this onnxruntime."""
    facts = [
        engine.bundle.manifest.bundle_id,
        list(engine.chunk_sizes),
        [engine.graph_for(t).file for t in engine.chunk_sizes],
        engine.prepack,
        engine.huge_pages,
        ort.__version__,
        platform.machine(),
        platform.node(),
        cores,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _remembered(file: Path, cores: int) -> Threads | None:
    try:
        held = json.loads(file.read_bytes()) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    match held:
        case {"number": int(number), "spin": bool(spin)} if 1 <= number <= cores:
            return Threads(number, spin)
    return None  # nothing, or nothing that was written here


def _remember(file: Path, choice: Threads) -> None:
    fresh = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(choice._asdict()))
        fresh.replace(file)
    except OSError:  # it is measured again next time
        with contextlib.suppress(OSError):
            fresh.unlink()
