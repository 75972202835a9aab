"""Describe this machine and its load, hold this thread to some cores, and read energy counters.

Linux shows the energy of each processor package as files (RAPL, Intel and AMD alike); on most
systems only root may read them. What a meter shows is all that ran on the package.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from dst.evaluate.result import Environment

_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
_CPUINFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def load_average() -> tuple[float, ...] | None:
    """Return the load over 1, 5 and 15 minutes, or None where the system does not tell."""
    try:
        return tuple(round(load, 2) for load in os.getloadavg())
    except (AttributeError, OSError):
        return None


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...] | None]:
    """Hold this thread, and those it starts, to as many cores as it has threads.

    The last cores are taken: systems tend to do their own work on the first. Yields their
    numbers, or None where the system knows no such thing or there are not enough.
    """
    before = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set[int]()
    cores = tuple(sorted(before)[-threads:])
    if len(cores) < threads:
        yield None
        return
    os.sched_setaffinity(0, cores)
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, before)


def environment(cores: tuple[int, ...] | None, before: tuple[float, ...] | None) -> Environment:
    """Describe the machine now, of which `cores` are held; `before` is the load before the work."""
    first = (_read(_CPUINFO) or "").split("\n\n")[0]  # what Linux says of the first core
    pairs = (line.partition(":") for line in first.splitlines())
    info = {name.strip(): value.strip() for name, _, value in pairs}
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Environment(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        pinned_to=cores,
        instructions=tuple(name for name in _TELLING if name in flags),
        governor=_read(_GOVERNOR),
        load_before=before,
        load_after=load_average(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=ort.__version__,
        numpy=np.__version__,
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


POWERCAP = Path("/sys/class/powercap")


class EnergyMeter(NamedTuple):
    """The counters of all packages.

    `zones` are the counter of each package, and the microjoules at which it starts anew; where the
    machine does not tell, there are none and `why` says why.
    """

    zones: tuple[tuple[Path, int], ...]
    why: str | None

    @staticmethod
    def find(root: Path = POWERCAP) -> "EnergyMeter":
        """Look for counters that can be read."""
        if not root.is_dir():
            return EnergyMeter((), f"{root} is missing: this machine shows no energy counters")
        zones = []
        for folder in sorted(root.glob("intel-rapl:*")):
            try:
                if not (folder / "name").read_text().startswith("package"):
                    continue
                int((folder / "energy_uj").read_text())
                limit = int((folder / "max_energy_range_uj").read_text())
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                return EnergyMeter((), f"{folder.name}/energy_uj cannot be read: {reason}")
            zones.append((folder / "energy_uj", limit))
        return EnergyMeter(tuple(zones), None if zones else f"{root} has no package counters")

    def read(self) -> tuple[int, ...]:
        """Return what the counters show now, in microjoules."""
        return tuple(int(counter.read_text()) for counter, _ in self.zones)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Return the energy between two readings, over at most one turn of a counter."""
        turned = zip(self.zones, before, after, strict=True)
        return sum((b - a) % limit for (_, limit), a, b in turned) / 1e6
