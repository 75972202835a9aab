"""Serve many users of one session from an asyncio program."""

from dst.runtime.errors import BusyError, ServingError
from dst.runtime.serving.scheduler import AsyncScheduler

__all__ = ["AsyncScheduler", "BusyError", "ServingError"]
