"""The horizon report: two bundles of one model and items in, a curve and gates out."""

from dst.quantize.report.attach import attach
from dst.quantize.report.gates import Budget
from dst.quantize.report.report import Report, Settings, quality_of, report

__all__ = ["Budget", "Report", "Settings", "attach", "quality_of", "report"]
