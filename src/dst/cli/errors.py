"""Turn an exception into one line on standard error and an exit code."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO, runtime_checkable

import typer

from dst.cli.signals import Stopped, end_at_ctrl_c, raise_ctrl_c


@runtime_checkable
class _UsageError(Protocol):
    """What typer raises for a wrong command line; its class has no public name."""

    def format_message(self) -> str: ...


class WrongUseError(Exception):
    """Arguments or input that cannot be meant; the message is one line a person can act on.

    All that reads an option or an input raises it; docstrings say so only where it is not plain.
    """


CHECK_FAILED, WRONG_USE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141


def guarded(work: Callable[[], int]) -> int:
    """Do the work of the command and return its exit code; a known error is told in one line."""
    try:
        code = work()
        sys.stdout.flush()
        return code
    except (BrokenPipeError, SystemExit) as error:
        # The reader has gone. Where rich and typer meet that, they end the program with 1.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _silence(sys.stdout)
        return PIPE_CLOSED
    except Stopped as stopped:
        return stopped.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        message = _explain(error, _where(error))
        if message is None:
            raise
        try:
            sys.stderr.write(f"dst: {' '.join(message.split())}\n")
        except OSError:  # nobody reads that either
            _silence(sys.stderr)
        return WRONG_USE


@contextmanager
def needing(verb: str, extra: str, *first: str) -> Iterator[None]:
    """While entered, a package that is not installed is wrong use of a verb, and Ctrl-C ends it.

    `extra` is what of ours to install, to have the package, and `first` what besides.
    """
    end_at_ctrl_c()
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("dst"):
            raise
        from dst.runtime.install import install_line  # not before: it loads onnxruntime

        missing = (error.name or extra).partition(".")[0]
        raise WrongUseError(
            f"{verb} needs {missing}, which is not installed: {install_line(extra, *first)}"
        ) from None
    finally:
        raise_ctrl_c()


def _where(error: Exception) -> str:
    """Say which file an error is about, if it is about one: a failed write does not name it."""
    named = getattr(error, "filename", None)
    try:
        sys.stdout.flush()  # fails again where it has failed
    except OSError:
        _silence(sys.stdout)
        named = named or "standard output"
    return "" if named is None else f"{named}: "


def _silence(stream: TextIO) -> None:
    """Send what a stream still holds nowhere; Python would complain when it flushes at exit."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _explain(error: Exception, where: str) -> str | None:
    """Say what is wrong, or None where it is a bug of ours, which needs its traceback."""
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        message = error.format_message().replace("Value error, ", "")  # pydantic's word
        return f"{message.rstrip('.')}{hint}"
    from dst.runtime.errors import DstError  # not before: it loads onnxruntime

    if isinstance(error, WrongUseError | DstError):
        return str(error)
    if isinstance(error, OSError):
        return f"{where}{error.strerror or error}"
    return None
