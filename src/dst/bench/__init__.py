"""The bench: bundles in, what each costs on this machine out, side by side in one run."""

from dst.bench.measure import measure
from dst.bench.result import BenchResult, Cell, Entry, Spread, Start

__all__ = ["BenchResult", "Cell", "Entry", "Spread", "Start", "measure"]
