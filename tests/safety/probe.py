"""Opens bundles and states that may do harm, in a process of its own: paths in, JSON out.

    probe.py ROOT LIMIT_BYTES GOOD PATH...

`GOOD` is a bundle that warms the process up. From then on the process may take `LIMIT_BYTES` more
of address space, and every file that Python opens is noted. Each `PATH` is opened, as a saved state
if it ends in `.state`, else as a bundle with a stream. Prints `{"answers": {path: [code,
message]}, "outside": [paths opened that do not lie under ROOT]}`; "" stands for no error.
"""

import json
import os
import resource
import sys
from pathlib import Path

from dst.runtime import DstError, Session, replay_golden
from dst.runtime.state.file import read_saved


def visit(path: Path) -> None:
    """Open what stands there, and use it a little."""
    if path.suffix != ".state":
        session = Session.open(path)
        session.stream()
        replay_golden(session.bundle)
    else:
        read_saved(path)


def answer(path: Path) -> list[str]:
    """Return the code and the message of the error, both empty for none."""
    try:
        visit(path)
    except DstError as error:
        return [error.code, str(error)]
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["", ""]


def main(root: str, limit_bytes: int, good: str, paths: list[str]) -> None:
    """Do what the module says."""
    visit(Path(good))
    outside: list[str] = []

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and isinstance(args[0], str | bytes):
            opened = os.path.realpath(os.fsdecode(args[0]))
            if not opened.startswith(os.path.realpath(root) + os.sep):
                outside.append(opened)

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + limit_bytes, taken + limit_bytes))
    sys.addaudithook(watch)
    answers = {path: answer(Path(path)) for path in paths}
    print(json.dumps({"answers": answers, "outside": outside}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
