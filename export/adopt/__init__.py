"""Adopting: a stateful ONNX file and a few answers in, a bundle out, without torch."""

from dst.export.adopt.adopt import Adopted, adopt_bundle
from dst.export.adopt.infer.answers import Answers

__all__ = ["Adopted", "Answers", "adopt_bundle"]
