"""Read the energy counters of the processor, or say why they cannot be read.

Linux shows the energy of each processor package as files (RAPL, Intel and AMD alike); on most
systems only root may read them. What a meter shows is all that ran on the package.
"""

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Zone:
    """The counter of one package, which starts anew at `range_uj` microjoules."""

    counter: Path
    range_uj: int


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """The counters of all packages.

    Attributes:
        zones: one per package; none where the machine does not tell.
        why: why there are none.
    """

    zones: tuple[Zone, ...]
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
            zones.append(Zone(folder / "energy_uj", limit))
        why = None if zones else f"{root} has no package counters"
        return EnergyMeter(tuple(zones), why)

    def read(self) -> tuple[int, ...]:
        """Return what the counters show now, in microjoules.

        Raises:
            OSError: a counter cannot be read any more.
        """
        return tuple(int(zone.counter.read_text()) for zone in self.zones)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Return the energy between two readings, over at most one turn of a counter."""
        turned = zip(self.zones, before, after, strict=True)
        return sum((b - a) % zone.range_uj for zone, a, b in turned) / 1e6
