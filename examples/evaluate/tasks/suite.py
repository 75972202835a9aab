"""Train every contestant on every task, judge it as it ships, and write down what it got right.

    python examples/evaluate/tasks/suite.py --out runs/tasks
    python examples/evaluate/tasks/suite.py --out runs/tasks --only recall dst --seeds 1

A cell is a task, a contestant and a seed. `results.json` is written after each cell; run the same
command again, and cells that stand there are left out, and the one that was interrupted goes on.
`plots.py` draws the plot and prints the table.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import torch

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "train"))
import trainer
from contestants import CONTESTANTS, contestant, parameters
from judging import Count, judge, readers
from tasks import TASKS, UNASKED, Task
from torch import Tensor
from torch.nn import functional as F

from dst.evaluate.machine import environment
from dst.evaluate.result import Environment

ITEMS = 1_024  # of a step
RESET_PROBABILITY = 0.05
STEPS = 1_000
RATE = 9e-3


class Answers(msgspec.Struct, frozen=True):
    """How many answers were right at a place of a task."""

    where: dict[str, float]
    right: int
    asked: int


class Cell(msgspec.Struct, frozen=True):
    """What one training came to: its answers by the form that was judged."""

    task: str
    contestant: str
    seed: int
    steps: int
    rate: float
    parameters: int
    train_seconds: float
    judge_seconds: float
    forms: dict[str, list[Answers]]

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from other cells."""
        return self.task, self.contestant, self.seed


class Results(msgspec.Struct):
    """The file."""

    machine: Environment
    cells: list[Cell]


def batches(task: Task, seed: int, carried: bool) -> Iterator[trainer.Batch]:
    """Segments of endless rows: each from a new row, or, when carried, on from where it ended."""
    random = Random(f"{task.name} {seed} {carried}")
    rows = ITEMS // task.segment
    order = torch.arange(rows)

    def begin() -> Iterator[tuple[int, int]]:
        return task.endless(Random(random.random()))

    held, fresh = [begin() for _ in range(rows)], [True] * rows
    while True:
        taken = [list(islice(row, task.segment)) for row in held]
        tokens, targets = torch.tensor(taken).unbind(-1)  # [B, T]
        asked = (targets != UNASKED).float()
        yield trainer.Batch(tokens, targets, order, torch.tensor(fresh), asked)
        fresh = [not carried or random.random() < RESET_PROBABILITY for _ in range(rows)]
        held = [begin() if new else row for new, row in zip(fresh, held, strict=True)]


def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Nats per item, `[B, T]`; 0 where nothing is asked."""
    logits = outputs["logits"].transpose(1, 2)
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=UNASKED)


def learned(task: Task, name: str, plan: trainer.Plan) -> torch.nn.Module:
    """Train a contestant on a task."""
    return trainer.train(
        trainer.Task(
            build=lambda: contestant(name, task.vocabulary, task.tracks),
            batches=lambda seed, carried: batches(task, seed, carried),
            streams=ITEMS // task.segment,
            loss=loss,
        ),
        plan,
    )


def measured(task: Task, name: str, plan: trainer.Plan, share: float) -> Cell:
    """Train and judge one cell."""
    began = time.perf_counter()
    module = learned(task, name, plan)
    trained = time.perf_counter()
    data = np.array([token for token, _ in islice(task.endless(Random(-1)), 4_096)], np.int64)
    forms: dict[str, list[Answers]] = {}
    for form, reader in readers(name, module, data, plan.out):
        counts = judge(reader, task.cases(Random(f"judged {task.name} {plan.seed}"), share))
        forms[form] = [answers(count) for count in counts]
    return Cell(
        task.name, name, plan.seed, plan.steps, plan.rate, parameters(module),
        round(trained - began, 1), round(time.perf_counter() - trained, 1), forms,
    )  # fmt: skip


def answers(count: Count) -> Answers:
    """Put a count into the form of the file."""
    return Answers(count.where, count.right, count.asked)


def wanted(only: list[list[str]] | None, seeds: int) -> list[tuple[Task, str, int]]:
    """List the cells, one seed of all before the next; memories of other sizes on `recall` only."""
    return [
        (task, name, seed)
        for seed in range(seeds)
        for task in TASKS
        for name in CONTESTANTS
        if (task.name == "recall" or not name.startswith("dst-"))
        and (only is None or [task.name, name] in only)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/tasks"), help="folder of results.json and the cells")
    add("--only", nargs=2, action="append", metavar=("TASK", "MODEL"), help="may be given again")
    add("--steps", type=int, default=STEPS, help="of both phases, the same for all")
    add("--rate", type=float, default=RATE, help="peak learning rate, the same for all")
    add("--seeds", type=int, default=3)
    add("--threads", type=int, default=1)
    add("--share", type=float, default=1.0, help="of the usual amount that is judged")
    given = parser.parse_args()
    known = [[task.name, name] for task in TASKS for name in CONTESTANTS]
    for pair in given.only or []:
        if pair not in known:
            parser.error(f"--only {' '.join(pair)}: no such cell; there are {known}")
    file = given.out / "results.json"
    results = Results(environment(None, None), [])
    if file.exists():
        results = msgspec.json.decode(file.read_bytes(), type=Results)
    others = {(c.steps, c.rate) for c in results.cells} - {(given.steps, given.rate)}
    if others:
        parser.error(
            f"{file} holds cells of (steps, rate) {sorted(others)}, asked for are "
            f"({given.steps}, {given.rate:g}); give the same, or another --out"
        )
    done = {cell.key for cell in results.cells}
    for task, name, seed in wanted(given.only, given.seeds):
        if (task.name, name, seed) in done:
            continue
        folder = given.out / f"{task.name}-{name}-{seed}"
        print(f"{task.name}, {name}, seed {seed}", flush=True)
        plan = trainer.Plan(
            folder, given.steps, given.steps // 2, given.rate, 0.5, seed, given.threads, False
        )
        cell = measured(task, name, plan, given.share)
        results.cells.append(cell)
        part = file.with_suffix(".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
        part.replace(file)
        for form, found in cell.forms.items():
            shares = ", ".join(f"{list(a.where.values())} {a.right / a.asked:.3f}" for a in found)
            print(f"  {form}: {shares}", flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
