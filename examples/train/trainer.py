"""One trainer for all models: two phases, kept states, checkpoints, a log and a plot of the loss.

A task says which network, and yields batches (`Batch`). In the first phase every row begins from
the initial state. In the second every row goes on from the state in which its stream was left,
detached from the gradient: only so does a network learn to live on a state it has carried for long.
A row may begin anew there too, as the task says.

Interrupt it when you like: the same command goes on from the last checkpoint.

Shape letters: B rows of a batch, T items, N streams whose states are kept.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dst.export.model import Network

State = dict[str, Tensor]
SAVE_EVERY, TELL_EVERY = 250, 50
WARM_UP_STEPS = 100


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input.

    Attributes:
        inputs: `[B, T]` token ids, or `[B, T, F]` values.
        targets: what the outputs are compared with, `[B, T]` or `[B, T, F]`.
        streams: which of the N kept streams each row goes on with, int64 `[B]`, no two alike.
        fresh: rows that begin from the initial state, bool `[B]`.
        weights: what each item's loss counts, `[B, T]`; None: all alike.
    """

    inputs: Tensor
    targets: Tensor
    streams: Tensor
    fresh: Tensor
    weights: Tensor | None = None


class Recurrent(Protocol):
    """What is trained: `Network`, or a baseline with the same two methods."""

    def initial_state(self, batch: int) -> State:
        """The state before the first item."""
        ...

    def __call__(self, chunk: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
        """Take one step."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned.

    Attributes:
        build: makes the untrained module.
        batches: yields batches for a seed, in the first phase (False) or the second (True); the
            same ones whenever it is called with the same arguments.
        streams: N.
        loss: nats per item, `[B, T]`, of outputs and targets.
    """

    build: Callable[[], nn.Module]
    batches: Callable[[int, bool], Iterator[Batch]]
    streams: int
    loss: Callable[[dict[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast.

    Attributes:
        out: folder of the checkpoint, the log and the plot.
        steps: of both phases together.
        zero_state: of them, those of the first phase.
        rate: peak learning rate.
        decay: share of the steps in which the rate falls to zero.
        seed: of weights and batches.
        threads: torch's.
        compiled: let torch compile the layers: minutes at the start, a few percent after.
    """

    out: Path
    steps: int
    zero_state: int
    rate: float = 5e-3
    decay: float = 0.5
    seed: int = 0
    threads: int = 2
    compiled: bool = True


def cross_entropy(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Nats per item of the next token, `[B, T]`."""
    return F.cross_entropy(outputs["logits"].transpose(1, 2), targets, reduction="none")


class HalfLinear(nn.Linear):
    """A linear map whose product is taken in bfloat16 and handed on in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` float32 -> `[..., out]` float32."""
        return F.linear(x.bfloat16(), self.weight.bfloat16()).float()


def half_is_fast() -> bool:
    """Tell whether this processor multiplies bfloat16; elsewhere that is several times slower."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def optimizers(model: nn.Module, rate: float, half: bool) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for all else.

    Muon multiplies in bfloat16; where that is slow, AdamW does all with a third of the rate.
    """
    inner, outer, plain = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name.endswith("conv"):
            plain.append(parameter)
        elif half and name.startswith("layers.") and "gates" not in name:
            inner.append(parameter)
        else:
            outer.append(parameter)
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": outer, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
            lr=rate,
            betas=(0.9, 0.98),
        )
    ]
    if inner:
        chosen.append(
            torch.optim.Muon(inner, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        )
    return chosen


def rate_at(step: int, steps: int, decay: float) -> float:
    """Share of the peak rate: warm-up, plateau, and a straight fall over the last `decay`."""
    return min(1.0, (step + 1) / WARM_UP_STEPS, (steps - step) / (decay * steps))


class Kept:
    """The states of N streams."""

    def __init__(self, start: State, streams: int) -> None:
        self.start = {name: tensor.detach() for name, tensor in start.items()}
        self.held = {
            name: tensor.repeat(streams, *[1] * (tensor.ndim - 1))
            for name, tensor in self.start.items()
        }

    def take(self, batch: Batch, start: State) -> State:
        """The states that the rows of a batch begin from; `start` is that of one stream."""
        rows: State = {}
        for name, held in self.held.items():
            fresh = batch.fresh.view(-1, *[1] * (held.ndim - 1))
            rows[name] = torch.where(fresh, start[name], held[batch.streams])
        return rows

    def put(self, batch: Batch, state: State) -> None:
        """Keep the states in which the rows ended."""
        for name, held in self.held.items():
            held[batch.streams] = state[name].detach()


def train(task: Task, plan: Plan) -> nn.Module:
    """Run both phases from wherever the last checkpoint stands, and return the trained module."""
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    plan.out.mkdir(parents=True, exist_ok=True)
    file, log = plan.out / "checkpoint.pt", plan.out / "log.jsonl"
    half = half_is_fast()
    model = task.build()
    step_of: Recurrent = model  # type: ignore[assignment]
    made = optimizers(model, plan.rate if half else plan.rate / 3, half)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in made]
    kept, step, seconds = Kept(step_of.initial_state(1), task.streams), 0, 0.0
    if file.exists():
        saved = torch.load(file, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, values in zip(made, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        kept.held, step, seconds = saved["kept"], saved["step"], saved["seconds"]
        print(f"going on from step {step}", flush=True)
    plain = [m for m in model.modules() if type(m) is nn.Linear and m.out_features >= 64]
    for linear in plain if half else ():
        linear.__class__ = HalfLinear
    if plan.compiled and isinstance(model, Network):
        for layer in model.layers:
            layer.compile(dynamic=False)

    def forever(carried: bool, after: int) -> Iterator[Batch]:
        batches = task.batches(plan.seed, carried)
        for _ in range(after):  # the data stands where it stood
            next(batches)
        yield from batches

    near = forever(False, min(step, plan.zero_state))
    far = forever(True, max(0, step - plan.zero_state))
    losses: list[float] = []
    since = time.perf_counter()
    while step < plan.steps:
        batch = next(near if step < plan.zero_state else far)
        for optimizer, rates in zip(made, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * rate_at(step, plan.steps, plan.decay)
        outputs, state = step_of(batch.inputs, kept.take(batch, step_of.initial_state(1)))
        nats = task.loss(outputs, batch.targets)
        weights = torch.ones_like(nats) if batch.weights is None else batch.weights
        loss = (nats * weights).sum() / weights.sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad()
        kept.put(batch, state)
        step += 1
        losses.append(loss.item())
        if step % TELL_EVERY == 0 or step == plan.steps:
            now = time.perf_counter()
            seconds, since = seconds + now - since, now
            row = {
                "step": step,
                "items": step * batch.targets.shape[0] * batch.targets.shape[1],
                "nats_per_item": round(sum(losses) / len(losses), 4),
                "bits_per_item": round(sum(losses) / len(losses) / math.log(2), 4),
                "share_of_rate": round(rate_at(step - 1, plan.steps, plan.decay), 4),
                "seconds": round(seconds),
            }
            losses.clear()
            print(json.dumps(row), flush=True)
            with log.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
        if step % SAVE_EVERY == 0 or step == plan.steps:
            parts = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in made],
                "kept": kept.held,
                "step": step,
                "seconds": seconds,
            }
            part = file.with_suffix(".part")
            torch.save(parts, part)
            part.replace(file)
    for linear in plain:
        linear.__class__ = nn.Linear
    draw(log, plan.out / "loss.png")
    return model.eval()


def trained(task: Task, folder: Path) -> nn.Module:
    """Read the module of a folder's last checkpoint."""
    model = task.build()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    return model.eval()


def shorten(model: nn.Module) -> nn.Module:
    """Round the weights to 12 bits after the point, so that archives pack them well."""
    for parameter in model.parameters():
        mantissa, exponent = torch.frexp(parameter.data)
        parameter.data = torch.ldexp(torch.round(mantissa * 4096) / 4096, exponent)
    return model


def draw(log: Path, target: Path) -> None:
    """Draw the loss of a log against the items read."""
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([r["items"] / 1e6 for r in rows], [r["bits_per_item"] for r in rows], lw=1)
    axes.set(xlabel="million items read", ylabel="bits per item, training")
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def options(parser: argparse.ArgumentParser, steps: int, zero_state: int, decay: float) -> None:
    """Add the options of a plan to a command line, with a task's own defaults."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of checkpoint, log and plot")
    add("--steps", type=int, default=steps, help=f"of both phases (default {steps})")
    add("--zero-state", type=int, default=zero_state, help="steps of the first phase")
    add("--decay", type=float, default=decay, help="share of the steps with a falling rate")
    add("--rate", type=float, default=5e-3, help="peak learning rate")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=2)


def plan_of(given: argparse.Namespace) -> Plan:
    """Read a plan from a command line."""
    names = ("out", "steps", "zero_state", "rate", "decay", "seed", "threads")
    return Plan(**{name: getattr(given, name) for name in names})
