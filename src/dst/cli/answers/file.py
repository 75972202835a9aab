"""Write the answers of a model to a file, or to standard output, as they come.

A file appears in one rename: when it is complete, or at the first `mark`, which is called before a
state is saved. `confirm`, called after that, keeps what was marked for good. From then on the file
grows where it stands, and what was not confirmed goes again if the run fails. A stream that goes on
from a saved state goes on in the file of its answers, behind the rows of that very state, even
where the run was killed between `mark` and `confirm`.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dst.cli.answers.forms import STREAMS, Form
from dst.cli.answers.rows import Answers
from dst.cli.errors import WrongUseError
from dst.cli.output import write_out


class AnswerFile:
    """Where the answers go."""

    def __init__(self, place: str, form: Form, resume_at: int | None) -> None:
        """Open it.

        `place` is a path, or one of `STREAMS`. `resume_at` is the items of a stream that goes on;
        an earlier file of its answers goes on too, and rows for later items, which a kill has left,
        are cut off. It is None for a fresh stream.
        """
        self._form = form
        self._file: BinaryIO | None = None
        self._kept = 0
        self._target = self._work = Path(os.path.realpath(place))
        if place in STREAMS:
            self._put(form.start())
            return
        plain = self._target.is_file() or not self._target.exists()
        if form.head() is not None and not plain:
            raise WrongUseError(
                f"--out {place}: is no plain file, and the length of a .npy is known at its end; "
                "write .csv or .jsonl"
            )
        if resume_at is not None and self._target.is_file() and self._target.stat().st_size:
            self._file = open(self._target, "r+b")  # noqa: SIM115
            try:
                self._kept = form.resume(self._file, resume_at)
            except ValueError as error:
                self._file.close()
                raise WrongUseError(
                    f"--out {place}: holds no answers of this stream that could go on: {error}; "
                    "give a new name"
                ) from None
            self._file.seek(self._kept)
            with self._named():
                self._end()  # as it should have been left: right even if nothing follows
            return
        if plain:
            self._work = self._target.with_name(f".{self._target.name}.tmp")
        self._file = open(self._work, "wb")  # noqa: SIM115
        self._put(form.start())
        self._kept = len(form.start())

    def write(self, answers: Answers, times: Sequence[str] | None) -> None:
        """Write the rows of some answers, with the time column's text for each item, if any."""
        self._put(self._form.rows(answers, times))

    def flush(self) -> None:
        """Let what was written be seen by a reader; a file that is renamed later has none."""
        if self._file is not None and self._work == self._target:
            with self._named():
                self._file.flush()

    def mark(self, items: int) -> None:
        """Bring what was written to the disk, before the state of so many items is saved."""
        if self._file is None or not self._file.seekable():
            return
        with self._named():
            end = self._file.tell()
            self._file.write(self._form.promise(items))
            self._file.truncate()  # an earlier run may have left rows behind
            self._file.seek(end)
            os.fsync(self._file.fileno())
            if self._work != self._target:
                self._file.close()  # before the rename: Windows renames no open file
                self._publish()
                self._file = open(self._target, "r+b")  # noqa: SIM115
                self._file.seek(end)

    def confirm(self) -> None:
        """Keep what was marked, now that its state is saved: it stays, even if the rest fails."""
        if self._file is None or not self._file.seekable():
            return
        with self._named():
            self._end()
            self._kept = self._file.tell()

    def close(self) -> None:
        """Complete the file."""
        if self._file is None:
            return
        with self._named():
            self._end()
            self._file.close()
            if self._work != self._target:
                self._publish()

    def abandon(self) -> None:
        """Drop what was not confirmed; a file that stood there before stands there still."""
        if self._file is None or self._file.closed:
            return
        cut = self._file.seekable()
        with suppress(OSError):  # the disk may be full: what waits in the buffer is dropped anyway
            self._file.close()
        if self._work != self._target:
            self._work.unlink(missing_ok=True)
        elif cut:
            with suppress(OSError):
                os.truncate(self._target, self._kept)

    def _publish(self) -> None:
        if self._target.exists():
            shutil.copymode(self._target, self._work)
        self._work.replace(self._target)
        self._work = self._target

    def _end(self) -> None:
        """Bring the header up to date, and cut off what stands behind the last row."""
        if self._file is None or not self._file.seekable():
            return
        end = self._file.tell()
        head = self._form.head()
        if head is not None:
            self._file.seek(0)
            self._file.write(head)
            self._file.seek(end)
            os.fsync(self._file.fileno())  # the header first: without it, nothing tells the rows
        self._file.truncate()

    def _put(self, data: bytes) -> None:
        if self._file is None:
            write_out(data.decode())
            return
        with self._named():
            self._file.write(data)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let an error say which file it is about: a failed write does not."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._target)) from error
