"""Language models of transformers that carry a state of fixed size, as steps to export."""

from dst.export.hf.load import FAMILIES, from_pretrained
from dst.export.hf.step import LanguageStep

__all__ = ["FAMILIES", "LanguageStep", "from_pretrained"]
