"""Make bundles: ``export_bundle`` from a torch module, ``adopt_bundle`` from an ONNX file.

What needs torch is loaded when it is first asked for: adopting an ONNX file does without.
"""

from typing import TYPE_CHECKING

from dst.export.adopt import Adopted, adopt_bundle
from dst.export.adopt.answers import Answers
from dst.export.errors import (
    AdoptCheckError,
    AdoptError,
    CertificateError,
    ExportError,
    LoweringError,
    OpenQuestionsError,
    StepFaultError,
)

if TYPE_CHECKING:
    from dst.export.export import export_bundle
    from dst.export.step import Step

__all__ = [
    "AdoptCheckError",
    "AdoptError",
    "Adopted",
    "Answers",
    "CertificateError",
    "ExportError",
    "LoweringError",
    "OpenQuestionsError",
    "Step",
    "StepFaultError",
    "adopt_bundle",
    "export_bundle",
]


def __getattr__(name: str) -> object:
    if name == "export_bundle":
        from dst.export.export import export_bundle

        return export_bundle
    if name == "Step":
        from dst.export.step import Step

        return Step
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
