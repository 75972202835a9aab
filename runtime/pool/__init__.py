"""The pool: many streams of one session in, one batch per step, each stream's own outputs out."""

from dst.runtime.pool.pool import StreamPool

__all__ = ["StreamPool"]
