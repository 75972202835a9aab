"""Measure how far a quantized model strays from full precision over the horizon of a stream."""

from dst.evaluate.quality.gates import Budget
from dst.evaluate.quality.report import Report, Settings, attach, horizon_report, quality_of

__all__ = ["Budget", "Report", "Settings", "attach", "horizon_report", "quality_of"]
