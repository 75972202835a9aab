"""Run every model of docs/models.md as printed, measure its bundle, and rewrite the page's table.

    python examples/models.py              # all sections, then the table in docs/models.md
    python examples/models.py --only lstm  # sections whose heading holds "lstm"; writes nothing
    python examples/models.py --check      # no int8, no times, writes nothing; fails if one fails
    python examples/models.py --check --jobs 1    # one at a time; else as many as there are cores

A section has two blocks: the model, and the lines that make a bundle of it. What the page shows
is what runs; the lines are counted in the second block. Then, for each bundle made:

- the certificate is read from its manifest;
- a child process streams through it, saves after every burst and kills itself by SIGKILL; another
  goes on from the saved state, and every later output must equal an uninterrupted run, bit for bit;
- the same items are stepped at T = 1 and at the nominal T, where it runs both;
- it is quantized to int8, and both are timed in turns.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from dst.evaluate import measure
from dst.quantize import quantize_bundle
from dst.quantize.assign import NothingQuantizedError
from dst.runtime import Session, Stream, open_bundle, relative_error
from dst.runtime.bundle.layout import laid_out
from dst.runtime.bundle.manifest import Certificate, Chunk, Features, Manifest, item_shape

Array = npt.NDArray[np.generic]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
TABLE = re.compile(r"(<!-- table[^\n]*-->\n).*?(<!-- end of table -->)", re.DOTALL)
SECTION = re.compile(r"^### (?P<title>.+?)\n(?P<body>.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

BURST, KILL_AT, ITEMS = 7, 60, 1200
"""Items per call, the burst after which the child is killed, and the items of the whole stream."""
RECIPE = "int8-dynamic"
MOST_LINES = 5


@dataclass(frozen=True)
class Section:
    """One kind of model on the page: its heading and its blocks, as ``(language, code)``."""

    title: str
    blocks: tuple[tuple[str, str], ...]

    @property
    def lines(self) -> int:
        """The lines beyond the model: those of the last block that hold code."""
        code = self.blocks[-1][1].splitlines()
        return sum(bool(line.strip()) and not line.strip().startswith("#") for line in code)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    lines: int
    graphs: str
    certificate: str
    bound: float
    resumed: bool
    cut: float | None
    int8: str
    speed: str

    @property
    def holds(self) -> bool:
        """Whether the promises of the page hold for this bundle."""
        return self.resumed and self.lines <= MOST_LINES and (self.cut or 0.0) <= self.bound

    def markdown(self) -> str:
        cut = "one T" if self.cut is None else f"{self.cut:.0e}"
        resumed = "equal" if self.resumed else "**differs**"
        cells = (self.title, str(self.lines), self.graphs, self.certificate, resumed, cut)
        return "| " + " | ".join((*cells, self.int8, self.speed)) + " |"


COLUMNS = (
    "model",
    "lines",
    "graphs",
    "certificate",
    "killed, resumed",
    "T = 1 against 16",
    "int8 bytes",
    "int8 speed",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"


def sections(text: str) -> list[Section]:
    """Cut the page into its kinds of models."""
    found = []
    for match in SECTION.finditer(text):
        blocks = tuple((b[1], b[2]) for b in BLOCK.finditer(match["body"]))
        if len(blocks) >= 2:
            found.append(Section(match["title"], blocks))
    return found


def made(page: list[Section], folder: Path, wanted: str) -> Iterator[tuple[Section, Path]]:
    """Run the blocks in order in ``folder`` and yield each bundle with the section that made it."""
    import torch  # seconds, which the children that are killed do not need

    scope: dict[str, object] = {"__name__": "page"}
    os.chdir(folder)
    for section in page:
        before = set(folder.iterdir())
        chosen = wanted.lower() in section.title.lower()
        torch.manual_seed(0)
        for number, (language, code) in enumerate(section.blocks):
            if number and not chosen:  # what a later section may need
                code = "\n".join(line for line in code.splitlines() if "import" in line)
            if language == "python":
                exec(compile(code, section.title, "exec"), scope)
            elif chosen:
                here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
                subprocess.run(["bash", "-ec", code], check=True, env={**os.environ, "PATH": here})
        for path in sorted(set(folder.iterdir()) - before):
            if chosen and (path / "manifest.json").is_file():
                yield section, path


def measured(section: Section, path: Path, times: bool) -> Row:
    """Measure one bundle."""
    manifest = open_bundle(path).manifest
    certificates = manifest.certificates
    int8, speed = quantized(path) if times else ("", "")
    return Row(
        title=f"{section.title}: `{path.name}`",
        lines=section.lines,
        graphs=graphs_of(manifest),
        certificate=certificate_of(certificates),
        bound=max(c.bound for c in certificates),
        resumed=resumes(path),
        cut=cut_error(path),
        int8=int8,
        speed=speed,
    )


def measured_in_order(
    bundles: Iterator[tuple[Section, Path]], jobs: int, times: bool
) -> Iterator[Row]:
    """Measure bundles while the next ones are made, where more than one job may run at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting: deque[Future[Row]] = deque()
        for section, path in bundles:
            waiting.append(pool.submit(measured, section, path, times))
            while waiting and (jobs == 1 or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def graphs_of(manifest: Manifest) -> str:
    """Say which graphs there are: what T and B each runs."""
    parts = []
    for graph in manifest.graphs:
        t = ", ".join(map(str, graph.allowed_t))
        parts.append(f"T = {t}{'' if not graph.batch else ', B = 1'}")
    return "; ".join(parts)


def certificate_of(certificates: Sequence[Certificate]) -> str:
    """Say how far the graphs stray from torch, and torch from transformers where that was held."""
    ours = [c for c in certificates if not c.name.startswith("transformers")]
    told = f"{max(c.worst for c in ours):.0e} over {min(c.steps for c in ours):,}"
    theirs = [c for c in certificates if c not in ours]
    if theirs:
        tokens = min(c.steps * c.items_per_step for c in theirs)
        worst = max(c.worst for c in theirs)
        told += f"; transformers {worst:.0e} over {tokens:,} tokens"
    return told


def items_of(chunk: Chunk) -> Array:
    """Draw the items of the stream: noise, or random tokens."""
    random = np.random.default_rng(0)
    if isinstance(chunk.content, Features):
        return random.normal(size=(ITEMS, *item_shape(chunk))).astype(chunk.dtype)
    return random.integers(0, chunk.content.vocabulary, ITEMS).astype(chunk.dtype)


def resumes(path: Path) -> bool:
    """Kill a child in mid-stream, go on in a second one, and compare with one that was not."""
    with tempfile.TemporaryDirectory() as held:
        state, answers = Path(held) / "state", Path(held) / "answers.safetensors"
        child = [sys.executable, __file__, "--child", str(path), str(state), str(answers)]
        killed = subprocess.run([*child, "--kill"], check=False)
        assert killed.returncode == -signal.SIGKILL, killed
        subprocess.run(child, check=True)
        rest = load_file(answers)
    session = Session.open(path)
    stream = session.stream()
    whole = stream.advance(items_of(session.contract.chunk))
    return all(
        np.array_equal(np.asarray(rest[o.name]), _last(whole[o.name], rest[o.name], o.time_axis))
        for o in session.contract.outputs
    )


def _last(whole: Array, part: Array, axis: int | None) -> Array:
    """The end of ``whole`` that is as long as ``part`` along time."""
    axis = axis or 0
    return whole.take(range(whole.shape[axis] - part.shape[axis], whole.shape[axis]), axis)


def child(path: str, state: str, answers: str, kill: bool) -> None:
    """Stream in bursts and save after each; die by SIGKILL in the middle, or finish."""
    session = Session.open(path)
    items = items_of(session.contract.chunk)
    stream = Stream.load(session, state) if Path(state).exists() else session.stream()
    found = []
    for number, at in enumerate(range(stream.items_consumed + stream.pending, ITEMS, BURST)):
        found.append(stream.advance(items[at : at + BURST]))
        stream.save(state, durable=False)
        if kill and number == KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)
    joined = {
        o.name: np.concatenate([f[o.name] for f in found], o.time_axis or 0)
        for o in session.contract.outputs
    }
    save_file({name: np.ascontiguousarray(value) for name, value in joined.items()}, answers)


def cut_error(path: Path) -> float | None:
    """Largest max|d|/rms of an output per item between T = 1 and the nominal T."""
    session = Session.open(path)
    chunk = session.contract.chunk
    outputs = [o for o in session.contract.outputs if o.time_axis is not None]
    if 1 not in session.chunk_sizes or chunk.nominal_t == 1 or not outputs:
        return None
    items = items_of(chunk)
    whole, one = session.stream().advance(items), session.stream()
    ahead = chunk.lookahead
    count = whole[outputs[0].name].shape[outputs[0].time_axis or 0]
    parts = [one.step(laid_out(chunk, items[i : i + 1 + ahead])) for i in range(count)]
    return max(
        relative_error(np.concatenate([p[o.name] for p in parts], o.time_axis), whole[o.name])
        for o in outputs
    )


def quantized(path: Path) -> tuple[str, str]:
    """Quantize to int8; return its share of the bytes and its speed at each T."""
    target = path.with_name(f"{path.name}-int8")
    try:
        result = quantize_bundle(path, target, RECIPE)
    except NothingQuantizedError:
        return "–", "no weight is large enough"
    before, after = result.weights_bytes
    sizes = sorted({1, result.bundle.manifest.contract.chunk.nominal_t})
    bench = measure([path, target], sizes, rounds=9, slot_ms=40.0, starts=0)
    ratios = [cell.ratio for cell in bench.bundles[1].cells]
    speed = " / ".join("–" if r is None else f"{r.median:.2f}" for r in ratios)
    return f"{after / before:.2f}", speed


def main() -> None:
    """Run the page, and write its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="only sections whose heading holds this")
    parser.add_argument("--check", action="store_true", help="only what must hold")
    parser.add_argument("--jobs", type=int, help="bundles measured at once (--check only)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--kill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, state, answers = options.child
        child(path, state, answers, options.kill)
        return
    text = PAGE.read_text("utf-8")
    jobs = (options.jobs or os.cpu_count() or 1) if options.check else 1  # alone for the times
    rows = []
    with tempfile.TemporaryDirectory() as held:
        bundles = made(sections(text), Path(held), options.only)
        for row in measured_in_order(bundles, jobs, times=not options.check):
            print(row.markdown(), flush=True)
            rows.append(row)
    failed = [row.title for row in rows if not row.holds]
    if failed:
        sys.exit(f"does not hold: {', '.join(failed)}")
    if not options.only and not options.check:
        PAGE.write_text(
            TABLE.sub(
                lambda m: m[1] + HEAD + "".join(f"{row.markdown()}\n" for row in rows) + m[2], text
            ),
            "utf-8",
        )


if __name__ == "__main__":
    main()
