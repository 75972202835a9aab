"""A disk that may lose what was not synced: a save's recorded calls in, what a crash leaves out.

The model knows one flat directory. A file's bytes are safe once the file was synced, a change of
the directory (a name made, moved or removed) once the directory was; until then any of it may be
lost and the rest kept, in every combination, and a rename may be cut in half.
"""

import builtins
import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO, Literal

import pytest

from dst.runtime import files


@dataclass(frozen=True, slots=True)
class Call:
    """One thing the disk was told, or a mark (`begun`, `acknowledged`) of the program.

    Attributes:
        kind: what it was. `make` gives a node (a file's content) a name.
        name: the name in the directory.
        node: which content.
        data: what was written at the end of it.
        number: which save a mark speaks of.
    """

    kind: Literal["make", "remove", "write", "sync", "sync directory", "begun", "acknowledged"]
    name: str = ""
    node: int = 0
    data: bytes = b""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """What a disk holds: `names` to nodes (two names of one node are hard links), and contents."""

    names: tuple[tuple[str, int], ...]
    contents: tuple[bytes, ...]

    @staticmethod
    def of(names: Mapping[str, int], contents: Mapping[int, bytes]) -> "Image":
        """Number the nodes by the order of their names, so that equal disks are equal images."""
        numbers: dict[int, int] = {}
        for _, node in sorted(names.items()):
            numbers.setdefault(node, len(numbers))
        ordered = sorted(numbers, key=lambda node: numbers[node])
        return Image(
            tuple((name, numbers[node]) for name, node in sorted(names.items())),
            tuple(contents[node] for node in ordered),
        )

    def lay_out(self, root: Path) -> None:
        """Make the files under `root`, an empty directory."""
        first: dict[int, str] = {}
        for name, node in self.names:
            if node in first:
                os.link(root / first[node], root / name)
            else:
                first[node] = name
                (root / name).write_bytes(self.contents[node])

    @staticmethod
    def read(root: Path) -> "Image":
        """Read a directory back."""
        nodes = {path.name: path.stat().st_ino for path in root.iterdir()}
        return Image.of(nodes, {node: (root / name).read_bytes() for name, node in nodes.items()})


class _File:
    """A file open for writing whose writes are recorded and not buffered."""

    def __init__(self, recorder: "Recorder", file: IO[bytes], node: int) -> None:
        self._recorder, self._file, self._node = recorder, file, node

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.nodes_open.pop(self.fileno())
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def flush(self) -> None:
        self._file.flush()

    def write(self, data: bytes) -> int:
        """Write in two halves: a crash or a full disk may part them."""
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self._recorder.note(Call("write", node=self._node, data=part))
            self._file.write(part)
            self._file.flush()
        return len(data)

    def writelines(self, parts: Iterable[files.Bytes]) -> None:
        """Write them as one."""
        self.write(b"".join(parts))


class Recorder:
    """Records what `dst.runtime.files` asks of the system under one directory.

    Attributes:
        calls: what was asked, in order.
        fails: the number of the call that fails with `error`, as does every later one where
            `stays` is true; None for none.
    """

    def __init__(self, root: Path, links: bool = True) -> None:
        self.calls: list[Call] = []
        self.asked = 0
        self.fails: int | None = None
        self.stays = False
        self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.nodes_open: dict[int, int] = {}
        self._root = root
        self._links = links
        start = Image.read(root)
        self._names = dict(start.names)
        self._next = len(start.contents)

    def mark(self, kind: Literal["begun", "acknowledged"], number: int) -> None:
        """Note where the program is."""
        self.calls.append(Call(kind, number=number))

    def note(self, *calls: Call) -> None:
        """Record one call of the system, or fail it."""
        number, self.asked = self.asked, self.asked + 1
        if self.fails is not None and (
            number == self.fails or (self.stays and number > self.fails)
        ):
            raise self.error
        self.calls += calls

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Stand between `dst.runtime.files` and the system."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "open", self._open, raising=False)
            system: dict[str, Callable[..., None]] = {
                name: getattr(os, name) for name in ("link", "replace", "unlink")
            }
            patch.setattr(os, "fsync", self._fsync)
            patch.setattr(os, "link", lambda a, b: self._link(system["link"], a, b))
            patch.setattr(os, "replace", lambda a, b: self._replace(system["replace"], a, b))
            patch.setattr(os, "unlink", lambda a: self._unlink(system["unlink"], a))
            yield

    def _open(self, path: Path, mode: str) -> IO[bytes] | _File:
        if mode == "rb":
            return builtins.open(path, "rb")
        assert mode in ("xb", "wb"), mode
        name = path.name
        if mode == "xb" and name in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if name in self._names:
            raise AssertionError(f"{name} is written in place; the model has no such call")
        node, self._next = self._next, self._next + 1
        self.note(Call("make", name, node))
        file = builtins.open(path, mode)  # noqa: SIM115 - _File closes it
        self._names[name] = self.nodes_open[file.fileno()] = node
        return _File(self, file, node)

    def _fsync(self, handle: int) -> None:
        node = self.nodes_open.get(handle)
        if node is None:
            assert os.path.samestat(os.fstat(handle), os.stat(self._root))
            self.note(Call("sync directory"))
        else:
            self.note(Call("sync", node=node))

    def _link(self, link: Callable[..., None], source: Path, target: Path) -> None:
        if not self._links:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.note(Call("make", target.name, self._names[source.name]))
        link(source, target)
        self._names[target.name] = self._names[source.name]

    def _replace(self, replace: Callable[..., None], source: Path, target: Path) -> None:
        node = self._names[source.name]
        if self._names.get(target.name) == node:  # two names of one file: POSIX does nothing
            self.note()
        else:
            self.note(Call("make", target.name, node), Call("remove", source.name))
            self._names[target.name] = self._names.pop(source.name)
        replace(source, target)

    def _unlink(self, unlink: Callable[..., None], path: Path) -> None:
        if path.name not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.note(Call("remove", path.name))
        unlink(path)
        del self._names[path.name]


def kept(start: Image, calls: Sequence[Call]) -> Image:
    """What the disk holds if nothing is lost."""
    names, contents = dict(start.names), dict(enumerate(start.contents))
    for call in calls:
        if call.kind == "make":
            names[call.name] = call.node
            contents.setdefault(call.node, b"")
        elif call.kind == "remove":
            del names[call.name]
        elif call.kind == "write":
            contents[call.node] += call.data
    return Image.of(names, contents)


def crashes(start: Image, calls: Sequence[Call]) -> Iterator[tuple[int, Image]]:
    """Yield every (calls made, disk afterwards) that a loss of power may leave.

    Args:
        start: what was safely on the disk before.
        calls: what the program asked for, in order.
    """
    safe_names: dict[str, int] = dict(start.names)
    changes: list[Call] = []
    safe = dict(enumerate(start.contents))
    written = dict(safe)
    seen: set[Image] = set()
    for made, call in enumerate((Call("begun"), *calls)):
        if call.kind == "make":
            changes.append(call)
            safe.setdefault(call.node, b"")
            written.setdefault(call.node, b"")
        elif call.kind == "remove":
            changes.append(call)
        elif call.kind == "write":
            written[call.node] += call.data
        elif call.kind == "sync":
            safe[call.node] = written[call.node]
        elif call.kind == "sync directory":
            safe_names, changes = _changed(safe_names, changes), []
        else:
            seen.clear()  # a mark: the same disk is judged anew
        for chosen in product((False, True), repeat=len(changes)):
            names = _changed(safe_names, [c for c, yes in zip(changes, chosen, strict=True) if yes])
            nodes = sorted(set(names.values()))
            for parts in product(*(_remains(safe[node], written[node]) for node in nodes)):
                image = Image.of(names, dict(zip(nodes, parts, strict=True)))
                if image not in seen:
                    seen.add(image)
                    yield made, image


def _changed(names: Mapping[str, int], changes: Sequence[Call]) -> dict[str, int]:
    changed = dict(names)
    for change in changes:
        if change.kind == "make":
            changed[change.name] = change.node
        else:
            changed.pop(change.name, None)
    return changed


def _remains(safe: bytes, written: bytes) -> list[bytes]:
    """What may be left of a file: none of the unsynced bytes, all, some, or zeros for them."""
    new = len(written) - len(safe)
    if not new:
        return [safe]
    some = written[: len(safe) + new // 3]
    return [safe, written, some, safe + bytes(new), some + bytes(len(written) - len(some))]
