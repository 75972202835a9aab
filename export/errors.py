"""What can go wrong between a torch module or an ONNX file and a bundle, one class each."""

from __future__ import annotations

from dst.runtime.errors import DstError


class ExportError(DstError):
    """A step could not be exported; nothing was written."""


class StepContractError(ExportError):
    """A module does not keep the contract it signed."""


class StepFaultError(ExportError):
    """A module is not the stateful step it claims to be; `code` names the fault.

    The codes: `state-never-updated`, `state-never-read`, `hidden-state`, `random`, `rows-mixed`,
    `not-causal`, `state-grows`, `data-dependent`, `cut-matters`, `step-failed`.
    """


class LoweringError(ExportError):
    """A traced graph breaks the rule of its lowering."""


class CertificateError(ExportError):
    """Two forms of the same step differ by more than the bound."""


class HuggingFaceError(ExportError):
    """A directory of transformers does not hold a model that can become a bundle."""


class AdoptError(ExportError):
    """An ONNX file cannot be adopted as asked."""


class OpenQuestionsError(AdoptError):
    """The graph does not tell everything; the message lists each question and its option."""


class AdoptCheckError(AdoptError):
    """The graph was run and is not the stateful step that was described."""
