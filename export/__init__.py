"""Torch steps in, bundles out: ``export_bundle`` traces, proves and writes."""

from dst.export.bundle import export_bundle
from dst.export.errors import CertificateError, ExportError, LoweringError, StepContractError
from dst.export.step import Step

__all__ = [
    "CertificateError",
    "ExportError",
    "LoweringError",
    "Step",
    "StepContractError",
    "export_bundle",
]
