"""Measure bundles: speed, memory, energy and how far a quantized one strays."""

from dst.evaluate.result import BenchResult, Cell, Entry, Spread, Start
from dst.evaluate.speed import measure

__all__ = ["BenchResult", "Cell", "Entry", "Spread", "Start", "measure"]
