"""A process that saves and is killed: lines on stdin in, saved states and lines on stdout out.

Run as a script it imports once and then forks a writer for each `go` it reads, so that a new
writer costs milliseconds. `WRITER` numbers it, `FIRST` is the number of its first state:

    in   go WRITER FIRST      fork a writer, which saves as fast as it can until it is killed
    in   reap WRITER          wait for its end
    out  here WRITER PID      it runs
    out  begun WRITER N TARGET, done WRITER N TARGET      around each save
    out  gone WRITER STATUS   it was reaped; every line of its own came before
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.runtime import Session, Stream
from dst.runtime.state.file import write_record
from dst.runtime.state.record import Identity, Saved
from dst.runtime.store import StateStore

LONGEST = 20_000  # values of the largest synthetic state

Save = Callable[[int], tuple[str, Callable[[], None]]]


def synthetic(number: int, longest: int = LONGEST, writer: int = 0) -> Saved:
    """Make a state that its number determines, every byte of it.

    Some are of a model with constants, some were given inputs at their start.

    Args:
        number: becomes `items_consumed`.
        longest: the most float32 values it holds; the number decides how many.
        writer: becomes the seed.
    """
    random = np.random.Generator(np.random.Philox(key=number + (writer << 32)))
    size = longest // 4 + number * 7919 % (longest - longest // 4)
    constants = {"sr": "int64 [] 16000"} if number % 3 == 0 else {}
    gain = np.full(1 + number % 4, 0.5, np.float32)
    return Saved(
        identity=Identity("a" * 64, "b" * 64, "c" * 64, "float32", constants),
        items_consumed=number,
        seed=writer,
        draws=number,
        state={"h": random.random(size, np.float32)},
        pending=np.arange(number % 5, dtype=np.int64),
        lookback=np.zeros((0,), np.int64),
        inputs={"gain": gain} if number % 2 else {},
    )


def to_files(root: Path, writer: int) -> Save:
    """Save to the writer's own file."""
    path = root / f"{writer}.state"

    def save(number: int) -> tuple[str, Callable[[], None]]:
        saved = synthetic(number, writer=writer)
        return path.name, lambda: write_record(path, saved)

    return save


def to_store(path: Path, writer: int) -> Save:
    """Put into one store, by turns under the writer's own name and under one that all share."""
    store = StateStore(path, history_bytes=1 << 18)

    def save(number: int) -> tuple[str, Callable[[], None]]:
        saved = synthetic(number, writer=writer)
        name = f"own-{writer}" if number % 2 else "shared"
        return name, lambda: store.put(name, saved)

    return save


def to_files_of_a_stream(session: Session, root: Path, writer: int) -> Save:
    """Advance a real stream item by item and save it; its number is the items it has read."""
    path = root / f"{writer}.state"
    stream = Stream.load(session, path) if path.exists() else session.stream()

    def save(number: int) -> tuple[str, Callable[[], None]]:
        at = stream.items_consumed + stream.pending
        stream.advance(items(at, number - at))
        return path.name, lambda: stream.save(path)

    return save


def items(start: int, count: int) -> npt.NDArray[np.float32]:
    """Make the items of a sensor from `start` on, `[count, 1]`."""
    return np.sin(np.arange(start, start + count, dtype=np.float32))[:, None]


def tell(line: str) -> None:
    """Write a line in one piece: writers share the pipe."""
    os.write(1, f"{line}\n".encode())


def write_for_ever(save: Save, writer: int, number: int) -> None:
    """Save states of rising numbers, each announced and acknowledged."""
    tell(f"here {writer} {os.getpid()}")
    while True:
        target, act = save(number)
        tell(f"begun {writer} {number} {target}")
        act()
        tell(f"done {writer} {number} {target}")
        number += 1


def serve(make: Callable[[int], Save]) -> None:
    """Fork writers as stdin asks for them."""
    running: dict[int, int] = {}
    for line in sys.stdin:
        word, writer, *rest = line.split()
        number = int(writer)
        if word == "reap":
            _, status = os.waitpid(running.pop(number), 0)
            tell(f"gone {number} {os.waitstatus_to_exitcode(status)}")
            continue
        child = os.fork()
        if child == 0:
            try:
                write_for_ever(make(number), number, int(rest[0]))
            except BaseException as error:
                os.write(2, f"writer {number}: {error!r}\n".encode())
                os._exit(1)
        running[number] = child


def main(kind: str, target: Path, bundle: str) -> None:
    """Serve writers of one kind: `files`, `store` or `stream`."""
    if kind == "store":
        serve(lambda writer: to_store(target, writer))
    elif kind == "stream":
        session = Session.open(bundle)  # one thread, so that a fork may use it
        serve(lambda writer: to_files_of_a_stream(session, target, writer))
    else:
        serve(lambda writer: to_files(target, writer))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
