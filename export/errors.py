"""What can go wrong between a torch module or an ONNX file and a bundle."""

from dst.runtime.errors import DstError


class ExportError(DstError):
    """A step could not be exported, or a bundle not packed; nothing was written.

    Codes of its own: `pack-target` (there is no such target); `step-contract` (a module does not
    keep the contract it signed); `feed-data`, `feed-weights` (a table, or a
    bundle, that no feed model can be made of); `hf-no-config`, `hf-no-weights`, `hf-unsupported`,
    `hf-not-loaded`, `hf-tokenizer` (a directory of transformers holds no model that can become a
    bundle).
    """

    code = "export"


class StepFaultError(ExportError):
    """A module is not the stateful step it claims to be; `code` names the fault.

    The codes: `state-never-updated`, `state-never-read`, `hidden-state`, `random`, `rows-mixed`,
    `not-causal`, `state-grows`, `data-dependent`, `cut-matters`, `step-failed`.
    """

    code = "step-failed"


class LoweringError(ExportError):
    """A step cannot be traced in one way, or the traced graph breaks a rule of that way."""

    code = "lowering"


class CertificateError(ExportError):
    """Two forms of the same step differ by more than the bound."""

    code = "certificate"


class AdoptError(ExportError):
    """An ONNX file cannot be adopted as asked."""

    code = "adopt"


class OpenQuestionsError(AdoptError):
    """The graph does not tell everything; the message lists each question and its option."""

    code = "open-questions"


class AdoptCheckError(AdoptError):
    """The graph was run and is not the stateful step that was described."""

    code = "adopt-check"
