"""Count the files and the calls of this package that `Session.open` and `dst show` pass through.

    python examples/bench/frames.py [BUNDLE] [--list]

The package is imported before counting, so that only the work itself counts. Calls of other
packages and of Python's own library are left out; `--list` names ours, the most frequent first.
"""

import argparse
import contextlib
import io
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import dst.runtime

FOLDERS = tuple({str(Path(folder).resolve()) for folder in (*dst.__path__, *dst.runtime.__path__)})


def calls_of(work: Callable[[], object]) -> Counter[tuple[str, str]]:
    """Run some work and count our calls: (file, function) -> how often it was entered."""
    calls: Counter[tuple[str, str]] = Counter()

    def enter(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    sys.setprofile(enter)
    try:
        work()
    finally:
        sys.setprofile(None)
    ours = {file for file, _ in calls if str(Path(file).resolve()).startswith(FOLDERS)}
    return Counter({key: n for key, n in calls.items() if key[0] in ours})


def show(bundle: str) -> None:
    """Do what the command `dst show BUNDLE` does, in this process and without its text."""
    from dst.cli.app import call

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        call(["show", bundle])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", nargs="?", default="text", help="a directory or a shipped name")
    parser.add_argument("--list", action="store_true", help="name every function of ours")
    asked = parser.parse_args()
    works: dict[str, Callable[[], object]] = {
        "Session.open": lambda: dst.runtime.Session.open(asked.bundle),
        "dst show": lambda: show(asked.bundle),
    }
    for name, work in works.items():
        work()  # imports what it needs
        calls = calls_of(work)
        print(f"{name}: {len({file for file, _ in calls})} files, {calls.total():,} calls")
        for (file, function), count in calls.most_common() if asked.list else ():
            print(f"{count:>8,}  {Path(file).name}: {function}")


if __name__ == "__main__":
    main()
