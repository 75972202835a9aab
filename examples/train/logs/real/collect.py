"""Run programs of many kinds in temporary folders and keep the logs that they write.

    python examples/train/logs/real/collect.py --out runs/logs/real
    python examples/train/logs/real/collect.py --out runs/logs/real --only nginx redis
    python examples/train/logs/real/collect.py --list

Each program is a short script in `programs.sh`, which says what it needs; what is not on this
machine is left out and said so. A log goes to `learn/` or to `held-out/` by the SHA-256 of the
program's name, which was fixed before any log was looked at. Logs of fewer than 3,000 lines are
dropped, the first 12,000 lines and 1.5 million bytes are kept. Servers listen on the loopback
address only.
"""

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEAST_LINES, MOST_LINES, MOST_BYTES = 3_000, 12_000, 1_500_000
HEAD = re.compile(r"^## (?P<name>[\w.-]+)(?: needs (?P<needs>.*))?$", re.M)


@dataclass(frozen=True, slots=True)
class Source:
    """A program that writes a log.

    Attributes:
        name: of the log.
        needs: commands that must be there.
        script: for bash, in an empty folder; it prints the log, or leaves it in the file `log`.
    """

    name: str
    needs: tuple[str, ...]
    script: str

    @property
    def held_out(self) -> bool:
        """Tell whether nothing may be learned from this log."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 5 < 2


def sources() -> list[Source]:
    """Read `programs.sh`."""
    text = (HERE / "programs.sh").read_text("utf-8")
    heads = [*HEAD.finditer(text)]
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return [
        Source(head["name"], tuple((head["needs"] or "").split()), text[head.end() : end])
        for head, end in zip(heads, ends, strict=True)
    ]


def written(source: Source, seconds: int) -> bytes:
    """Run a script and return the log, cut to what is kept."""
    folder = Path(tempfile.mkdtemp(prefix="log-"))
    folder.chmod(0o755)  # some servers run as another user
    extra = {
        "PYTHON": sys.executable,
        "LOAD": str(HERE / "load.py"),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }
    held = {"OMP_NUM_THREADS": "1"}
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    with (folder / "printed").open("wb") as printed:
        done = subprocess.Popen(
            [
                "bash",
                "-u",
                "-c",
                (HERE / "programs.sh").read_text("utf-8").split("\n## ")[0] + source.script,
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, **extra, **held, "PATH": path},
            start_new_session=True,
        )
        try:
            done.wait(seconds)
        except subprocess.TimeoutExpired:
            print(f"{source.name}: stopped after {seconds} s", flush=True)
        with suppress(ProcessLookupError):
            os.killpg(done.pid, signal.SIGTERM)  # servers that the script left running
        done.wait()
    found = folder / "log"
    text = (found if found.exists() else folder / "printed").read_bytes()
    shutil.rmtree(folder, ignore_errors=True)
    lines = text.replace(b"\0", b"").splitlines(keepends=True)[:MOST_LINES]
    size = 0
    for place, line in enumerate(lines):
        size += len(line)
        if size > MOST_BYTES:
            return b"".join(lines[:place])
    return b"".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the logs")
    parser.add_argument("--only", nargs="+", help="names of programs")
    parser.add_argument("--list", action="store_true", help="say which there are, and the split")
    parser.add_argument("--seconds", type=int, default=300, help="for each program, at most")
    given = parser.parse_args()
    for source in sources():
        part = "held-out" if source.held_out else "learn"
        missing = [
            need
            for need in source.needs
            if not shutil.which(need, path=f"{os.environ['PATH']}:/usr/sbin")
        ]
        if given.list:
            print(f"{source.name:<14} {part:<9} {'lacks ' + ' '.join(missing) if missing else ''}")
        elif given.out and (not given.only or source.name in given.only):
            target = given.out / part / f"{source.name}.log"
            if missing or (target.exists() and not given.only):
                print(f"{source.name}: {'lacks ' + ' '.join(missing) if missing else 'is there'}")
                continue
            text = written(source, given.seconds)
            lines = text.count(b"\n")
            print(f"{source.name}: {part}, {lines} lines, {len(text):,} bytes", flush=True)
            if lines >= LEAST_LINES:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(text)
            else:
                print(text[-600:].decode("utf-8", "replace"))


if __name__ == "__main__":
    main()
