"""The bench: bundles in, what each costs on this machine out, side by side in one run."""

from dst.evaluate.result import BenchResult, Cell, Entry, Spread, Start
from dst.evaluate.speed import measure

__all__ = ["BenchResult", "Cell", "Entry", "Spread", "Start", "measure"]
