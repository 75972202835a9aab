"""Note Ctrl-C and SIGTERM while work is going on, so that it ends at a safe place."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Work was stopped at a safe place because a signal had come."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code  # what a shell calls the signal


def end_at_ctrl_c() -> None:
    """Have a Ctrl-C end the process at once, unless it is ignored, until `raise_ctrl_c`.

    For the time of imports, where nothing has begun that would need an end: what Ctrl-C raises
    there is told with a traceback, and some packages make an ImportError of it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_ctrl_c() -> None:
    """Have a Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


@contextmanager
def sigterm_raised() -> Iterator[None]:
    """While entered, SIGTERM raises `Stopped`, so that the block cleans up as after a Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class Interrupts:
    """While entered, the first SIGINT or SIGTERM is only noted; the second acts as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None  # the one that came
        self._before = [(number, signal.getsignal(number)) for number in _WATCHED]

    @property
    def exit_code(self) -> int:
        """What a shell calls the signal that came, 0 for none."""
        return 0 if self.signal is None else 128 + self.signal

    def watched(self, tell: Callable[[str, float], None]) -> Callable[[str, float], None]:
        """Have work that tells its progress stop where it next does, once a signal has come.

        There, and not in the middle of a rename or of a clean-up, it can be undone whole: what
        the work raises from is `Stopped`.
        """

        def told(what: str, share: float) -> None:
            if self.signal is not None:
                raise Stopped(self.exit_code)
            tell(what, share)

        return told

    def __enter__(self) -> "Interrupts":
        for number in _WATCHED:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before:
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python
