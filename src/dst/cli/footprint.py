"""Predict and measure memory: for `dst show --memory` that of a bundle, and that of a long read.

Run as `python -m dst.cli.footprint [BUNDLE SLOTS]` this module is the process that is measured: it
prints its own resident memory, bare and, given a bundle, with streams that stepped.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import numpy as np

from dst.cli.errors import WrongUseError
from dst.cli.output import Output, check_paths, foreign, table
from dst.cli.signals import sigterm_raised
from dst.runtime import Memory, Session, open_bundle, predict, rss_bytes
from dst.runtime.bundle.layout import sized
from dst.runtime.errors import SessionError
from dst.runtime.execution.memory import peak_rss_bytes
from dst.runtime.golden import golden_inputs
from dst.words import counted, mib


class Measured(msgspec.Struct, frozen=True):
    """Resident memory of a process of its own, in bytes; null where no graph was opened."""

    base_bytes: int  # with Python, numpy, onnxruntime and this package loaded, and no bundle
    peak_loading_bytes: int | None = None  # the most while the graph was opened
    opened_bytes: int | None = None  # with the graph open
    running_bytes: int | None = None  # when every stream had stepped


def show_memory(path: str, slots: int, measure: bool, output: Output) -> int:
    """Print what a bundle and its streams will hold, and return the exit code.

    `base_bytes` is measured, the parts after it are predicted, and `total_bytes` is the sum of
    both. ONNX Runtime's own work space is not predicted: what is measured contains it.
    """
    check_paths(output, {"BUNDLE": path})
    bundle = open_bundle(path)
    manifest, name = bundle.manifest, bundle.root.name
    t = manifest.contract.chunk.nominal_t
    memory = predict(manifest, 1, slots, [t])
    if measure:
        _check_room(slots, memory.total_bytes)
    with output.progress(f"measure {name}", None):
        found = _measure([path, str(slots)] if measure else [])
    _show(name, memory, found, output)
    output.write_json(
        {
            "slots": slots,
            "t": t,
            "base_bytes": found.base_bytes,
            **memory_bytes(memory),
            "total_bytes": found.base_bytes + memory.total_bytes,
            "measured": found if measure else None,
        }
    )
    return 0


def memory_bytes(memory: Memory) -> dict[str, int]:
    """Return the parts of a prediction by their names, and their sum."""
    fields = msgspec.structs.asdict(memory)
    parts = {name: size for name, size in fields.items() if name.endswith("_bytes")}
    return {**parts, "total_bytes": memory.total_bytes}


def memory_parts(memory: Memory) -> Iterator[tuple[str, int, str]]:
    """Yield each part of a prediction: its name, its bytes, and what they are for."""
    streams = counted(memory.streams, "stream")
    yield "weights", memory.weights_bytes, "one open graph"
    yield "state", memory.state_bytes, f"{streams}, two arenas each"
    yield "guard", memory.guard_bytes, f"{streams}, last good state and undo"
    yield "waiting", memory.waiting_bytes, f"{streams}, items that wait and lookback"
    yield "scratch", memory.scratch_bytes, f"{streams}, chunk and outputs at the nominal T"


def _check_room(slots: int, total: int) -> None:
    """Refuse to measure more than the machine has, where the platform tells how much that is."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return
    held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total > held:
        raise WrongUseError(
            f"--slots {slots}: {mib(total)} are predicted and this machine has {mib(held)}; give "
            "fewer, or leave out --measure"
        )


def _measure(arguments: list[str]) -> Measured:
    """Have a process of its own measure itself."""
    with sigterm_raised():  # or the process would outlive this one
        done = subprocess.run(
            [sys.executable, "-m", "dst.cli.footprint", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise SessionError(f"the process to be measured failed: {last}", code="child-failed")
    return msgspec.json.decode(done.stdout, type=Measured)


def _show(name: str, memory: Memory, found: Measured, output: Output) -> None:
    grid = table("", ">", "")
    grid.columns[2].style = "dim"
    process = "process", found.base_bytes, "Python, numpy and onnxruntime; measured now"
    for what, size, why in (process, *memory_parts(memory)):
        grid.add_row(what, mib(size), why)
    total = found.base_bytes + memory.total_bytes
    grid.add_row("[bold]predicted[/]", f"[bold]{mib(total)}[/]", "without onnxruntime's work space")
    if found.running_bytes is not None and found.peak_loading_bytes is not None:
        grid.add_row("at most", mib(found.peak_loading_bytes), "measured while the graph opened")
        beyond = (found.running_bytes - total) / 2**20
        why = f"measured after two steps of each stream: {beyond:+.1f} MiB"
        grid.add_row("[bold]measured[/]", f"[bold]{mib(found.running_bytes)}[/]", why)
    output.out.print(f"[bold]{foreign(name)}[/]")
    output.out.print(grid)


def main() -> None:
    """Measure this process and print it as JSON."""
    base = rss_bytes()
    found = Measured(base)
    if sys.argv[1:]:
        path, slots = sys.argv[1:]
        session = Session.open(path)
        t = session.contract.chunk.nominal_t
        session.runner_for(t)
        opened, peak = rss_bytes(), peak_rss_bytes()
        chunk = session.contract.chunk
        zeros = np.zeros(sized(chunk.shape, t + chunk.lookahead), chunk.dtype)
        given = golden_inputs(session.bundle)
        streams = [session.stream(inputs=given) for _ in range(int(slots))]
        for stream in streams * 2:
            stream.step(zeros)
        found = Measured(base, peak, opened, rss_bytes())
    sys.stdout.buffer.write(msgspec.json.encode(found))


WARM_ITEMS = 1 << 15
_SAMPLE_S = 0.25


class Meter:
    """Measures wall time and the resident memory of this process, in constant memory.

    Memory counts as warm after 32,768 items, or at the end of a shorter input.

    Examples:
        >>> meter = Meter()
        >>> due = meter.add(100)
        >>> (meter.items, meter.growth_bytes)
        (100, 0)
    """

    def __init__(self) -> None:
        self.items = 0  # told so far
        self.peak_bytes = rss_bytes()  # the most seen
        self._start = self._last = time.perf_counter()
        self._warm: int | None = None

    def add(self, items: int) -> bool:
        """Count items; returns whether it is time to show something, four times a second."""
        self.items += items
        now = time.perf_counter()
        if self._warm is None and self.items >= WARM_ITEMS:
            self._warm = rss_bytes()
        if now - self._last < _SAMPLE_S:
            return False
        self._last = now
        self.sample()
        return True

    def sample(self) -> None:
        """Look at the memory now."""
        self.peak_bytes = max(self.peak_bytes, rss_bytes())

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self._start

    @property
    def per_second(self) -> float:
        """Items per second since the start."""
        return self.items / max(self.seconds, 1e-9)

    @property
    def growth_bytes(self) -> int:
        """The most resident memory seen, less what there was when warm; 0 where never warm."""
        return 0 if self._warm is None else max(0, self.peak_bytes - self._warm)


if __name__ == "__main__":
    main()
