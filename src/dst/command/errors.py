"""Errors of the command: an exception goes in, one line on stderr and an exit code come out."""

import os
import sys
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import typer

from dst.command.signals import Stopped


@runtime_checkable
class _UsageError(Protocol):
    """What typer raises for a wrong command line; its class has no public name."""

    def format_message(self) -> str: ...


class WrongUseError(Exception):
    """Arguments or input that cannot be meant; the message is one line a person can act on."""


CHECK_FAILED, WRONG_USE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141


def guarded(work: Callable[[], int]) -> int:
    """Do the work of the command and return its exit code; a known error is told in one line."""
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        sys.stderr.write(f"dst: {' '.join(message.split())}\n")
        return WRONG_USE


def _explain(error: Exception) -> str | None:
    """Say what is wrong, or None where it is a bug of ours, which needs its traceback."""
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return f"{error.format_message().rstrip('.')}{hint}"
    if isinstance(error, WrongUseError):
        return str(error)
    from dst.runtime.errors import DstError  # not before: it loads onnxruntime

    if isinstance(error, DstError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}"
    return None
