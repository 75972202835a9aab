"""The process that `dst demo` kills: stream a file, save the state twice, then wait.

Run as `python -m dst.cli.demo.victim BUNDLE FILE STATE EVERY SAVES THREADS`. It prints the
number of bytes after each save, streams on without saving after the last, and never ends by
itself while its standard input is open: so it is always killed after its last save.
"""

import sys
from pathlib import Path

from dst.runtime import Session


def main() -> None:
    """Stream the file, and save after every so many bytes, so many times."""
    bundle, file, state, every, saves, threads = sys.argv[1:]
    stream = Session.open(bundle, threads=int(threads)).stream()
    data = Path(file).read_bytes()
    for start in range(0, len(data), int(every)):
        piece = data[start : start + int(every)]
        stream.advance(piece)
        if start < int(every) * int(saves):
            stream.save(state)
            print(start + len(piece), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
