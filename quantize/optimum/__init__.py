"""Recipes and bundles go in; optimum's words for them, or bundles made by optimum, come out.

    quantize_bundle("text", "small", "int8-dynamic", backend=OptimumBackend())

Needs the extra ``optimum``. Importing this package does not load optimum.
"""

from dst.quantize.optimum.backend import ORT_CONFIG, OptimumBackend
from dst.quantize.optimum.mapping import from_optimum, to_optimum

__all__ = ["ORT_CONFIG", "OptimumBackend", "from_optimum", "to_optimum"]
