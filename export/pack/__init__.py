"""Pack a bundle for a platform: reduced graphs, provider reports, and the files of a project."""

from dst.export.pack.pack import pack_bundle
from dst.export.pack.packed import TARGETS, Packed, Target

__all__ = ["TARGETS", "Packed", "Target", "pack_bundle"]
