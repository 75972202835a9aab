"""Pools: many streams of one session that step together."""

from dst.runtime.pool.pool import StreamPool

__all__ = ["StreamPool"]
