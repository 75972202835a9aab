"""The horizon report: two bundles of one model and items in, a curve and gates out."""

from dst.evaluate.quality.attach import attach
from dst.evaluate.quality.gates import Budget
from dst.evaluate.quality.report import Report, Settings, quality_of, report

__all__ = ["Budget", "Report", "Settings", "attach", "quality_of", "report"]
