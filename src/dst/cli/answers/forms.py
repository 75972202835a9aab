"""Spell the answers of a model as .npy, CSV or JSON lines."""

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from dst.cli.answers.rows import Answers, Classes, columns_of, flat
from dst.cli.errors import WrongUseError
from dst.runtime.bundle.layout import fixed
from dst.runtime.bundle.manifest import Output

Array = npt.NDArray[np.generic]

ENDINGS = (".npy", ".csv", ".jsonl")
STREAMS = {"-": ".csv", "-.csv": ".csv", "-.jsonl": ".jsonl"}
"""Places on standard output -> what is written there."""


class Form(ABC):
    """How answers become bytes: by default lines of text, whose rows have numbers."""

    def __init__(
        self, outputs: Sequence[Output], classes: Classes | None = None, timed: str | None = None
    ) -> None:
        self._outputs, self._classes, self._timed = outputs, classes, timed

    def start(self) -> bytes:
        """What stands before the first row."""
        return b""

    @abstractmethod
    def rows(self, answers: Answers, times: Sequence[str] | None) -> bytes:
        """Spell some rows."""

    def head(self) -> bytes | None:
        """What the start of a finished file is now; None where it never changes."""
        return None

    def promise(self, items: int) -> bytes:
        """What stands behind the rows while the state of so many items is being saved.

        A run that is killed there leaves it. It tells the next run whether the rows that the head
        does not count belong to the state it goes on from. Rows with numbers need none.
        """
        return b""

    @abstractmethod
    def resume(self, file: BinaryIO, items: int) -> int:
        """Return how many bytes of an earlier file belong to a stream of so many items.

        Raises:
            ValueError: the file holds something else; the message says what.
        """


def form_of(
    ending: str, outputs: Sequence[Output], classes: Classes | None, timed: str | None
) -> Form:
    """Choose how answers are written; `timed` names the time column beside them, if any."""
    names = ", ".join(o.name for o in outputs)
    if ending == ".npy":
        if len(outputs) > 1:
            raise WrongUseError(
                f"--out: a .npy file holds one output, this model has {names}; choose one with "
                "--output, or write .jsonl"
            )
        if classes is not None:
            raise WrongUseError("--classes: a .npy file holds no names; write .csv or .jsonl")
        return _Npy(outputs)
    if ending == ".csv":
        if len({o.per for o in outputs}) > 1:
            kinds = ", ".join(f"{o.name} per {o.per}" for o in outputs)
            raise WrongUseError(
                f"--out: the rows of a CSV are items or chunks, and this model has {kinds}; choose "
                "with --output, or write .jsonl"
            )
        return _Csv(outputs, classes, timed)
    return _JsonLines(outputs, classes, timed)


def ending_of(place: str) -> str:
    """Return what is written to a place: one of `ENDINGS`."""
    ending = STREAMS.get(place) or PurePath(place).suffix.lower()
    if ending not in ENDINGS:
        raise WrongUseError(
            f"--out {place}: expected a name that ends in {', '.join(ENDINGS)}, or - for CSV on "
            "standard output (-.jsonl for JSON lines)"
        )
    return ending


class _Npy(Form):
    """One array `[n, ...]`; its header is brought up to date at each mark."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        super().__init__(outputs)
        (self._output,) = outputs
        self._count = 0

    def start(self) -> bytes:
        return self.head()

    def head(self) -> bytes:
        room = io.BytesIO()
        shape = (self._count, *fixed(self._output.shape))
        kind = np.dtype(self._output.dtype).newbyteorder("<")
        held = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(room, held)  # keeps its length while the count grows
        return room.getvalue()

    def rows(self, answers: Answers, times: Sequence[str] | None) -> bytes:
        name = self._output.name
        value = answers.items[name] if self._output.per == "item" else answers.chunks[name]
        self._count += len(value)
        return value.astype(value.dtype.newbyteorder("<")).tobytes()

    def promise(self, items: int) -> bytes:
        return f"\nitems up to {items}\n".encode()

    def resume(self, file: BinaryIO, items: int) -> int:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        want = (*shape[:1], *fixed(self._output.shape))
        same = shape == want and dtype == np.dtype(self._output.dtype)
        if not same or file.tell() != len(self.head()):
            raise ValueError(f"it holds {dtype} {list(shape)}")
        self._count = int(shape[0])
        start, size = file.tell(), int(np.prod(want[1:], dtype=np.int64)) * dtype.itemsize
        promise = self.promise(items)
        end = file.seek(0, os.SEEK_END) - len(promise)
        if end >= start + self._count * size and not (end - start) % size:
            file.seek(end)
            if file.read() == promise:
                self._count = (end - start) // size
        return start + self._count * size


class _Csv(Form):
    """A first line of names, then `item`, the time if there is one, class and values."""

    def start(self) -> bytes:
        names = ["item", *([self._timed] if self._timed is not None else [])]
        names += ["class", "probability"] if self._classes is not None else []
        for output in self._outputs:
            names += columns_of(output, self._classes)
        return _line(names)

    def rows(self, answers: Answers, times: Sequence[str] | None) -> bytes:
        ((_, numbers, _, held),) = answers.parts(self._outputs)
        columns: list[Sequence[str]] = [[str(number) for number in numbers]]
        if self._timed is not None:
            columns.append(["" if times is None else times[n - answers.first] for n in numbers])
        if self._classes is not None:
            place = [o.name for o in self._outputs].index(self._classes.output)
            names, shares = self._classes.top(held[place])
            columns += [names, [f"{share:.6g}" for share in shares.tolist()]]
        for value in held:
            texts = spelled(value)
            columns += [texts[:, place].tolist() for place in range(texts.shape[1])]
        return b"".join(_line(row) for row in zip(*columns, strict=True))

    def resume(self, file: BinaryIO, items: int) -> int:
        first = file.readline()
        if first != self.start():
            raise ValueError(f"its first line is {first[:60]!r}")
        return _known(file, items, lambda line: int(line.split(b",", 1)[0]))


class _JsonLines(Form):
    """An object per item, and one per chunk for outputs that have a row per chunk."""

    def rows(self, answers: Answers, times: Sequence[str] | None) -> bytes:
        lines: list[tuple[int, str]] = []
        for per, numbers, outputs, held in answers.parts(self._outputs):
            key = "item" if per == "item" else "chunk_end"
            columns = [[f'"{key}": {number}' for number in numbers]]
            if self._timed is not None:
                texts = ["" if times is None else times[n - answers.first] for n in numbers]
                columns.append([f"{json.dumps(self._timed)}: {json.dumps(text)}" for text in texts])
            for output, value in zip(outputs, held, strict=True):
                if self._classes is not None and self._classes.output == output.name:
                    top = zip(*self._classes.top(value), strict=True)
                    columns.append(
                        [f'"class": {json.dumps(n)}, "probability": {p:.6g}' for n, p in top]
                    )
            for output, value in zip(outputs, held, strict=True):
                columns.append([f"{json.dumps(output.name)}: {v}" for v in _json_rows(value)])
            objects = ("{" + ", ".join(parts) + "}\n" for parts in zip(*columns, strict=True))
            lines += zip(numbers, objects, strict=True)
        lines.sort(key=lambda line: line[0])  # a chunk after its last item
        return "".join(text for _, text in lines).encode()

    def resume(self, file: BinaryIO, items: int) -> int:
        def number(line: bytes) -> int:
            held = json.loads(line)
            return int(held["item"] if "item" in held else held["chunk_end"])

        return _known(file, items, number)


def _known(file: BinaryIO, items: int, number: Callable[[bytes], int]) -> int:
    """Return where the rows end that answer for the first `items` items."""
    end = file.tell()
    for row, line in enumerate(file, 1):
        try:
            late = not line.endswith(b"\n") or number(line) > items
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"its row {row} is {line[:60]!r}") from None
        if late:
            break
        end += len(line)
    return end


def spelled(rows: Array) -> npt.NDArray[np.str_]:
    """Spell values `[n, ...]` as `[n, C]`: the shortest text that reads back as the same number."""
    values = flat(rows)
    return (values.astype(np.uint8) if values.dtype == np.bool_ else values).astype(np.str_)


def _json_rows(rows: Array) -> list[str]:
    """Spell each row `[...]` as nested JSON arrays, or as a number where it is one.

    What is not finite is spelled as Python's own `json` and most readers know it.
    """
    shape = rows.shape[1:]
    texts, values = spelled(rows), flat(rows)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        for odd, where in (
            ("NaN", np.isnan(values)),
            ("Infinity", values == np.inf),
            ("-Infinity", values == -np.inf),
        ):
            texts = np.where(where, odd, texts)
    made = []
    for row in texts.tolist():
        for size in reversed(shape):
            row = [f"[{', '.join(row[at : at + size])}]" for at in range(0, len(row), size)]
        made.append(row[0] if row else "[]")
    return made


def _line(cells: Sequence[str]) -> bytes:
    room = io.StringIO()
    csv.writer(room, lineterminator="\n").writerow(cells)
    return room.getvalue().encode(errors="replace")  # half a character, as JSON may hold it
