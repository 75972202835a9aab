"""Make a bundle of a stateful ONNX file, without torch."""

from dst.export.adopt.adopt import Adopted, adopt_bundle
from dst.export.adopt.answers import Answers

__all__ = ["Adopted", "Answers", "adopt_bundle"]
