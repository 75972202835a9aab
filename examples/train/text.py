"""Train the shipped text model: Python's standard library in, a checkpoint and a log out.

    python examples/train/text.py --out runs/text --steps 8000

Two phases. First every segment starts from the zero state at a random place; then eight streams
run through the whole text and each carries its state from segment to segment, detached, reset
with 3 % probability. Products of the large linear maps run in bfloat16, all else in float32.
Interrupt it when you like: the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from corpus import split
from lstm import LSTM
from torch import Tensor, nn
from torch.nn import functional as F

from dst.export.model import Network, State, sized

STREAMS, SEGMENT = 8, 512
RESET_PROBABILITY = 0.03
WARM_UP_STEPS = 100


class HalfLinear(nn.Linear):
    """A linear map whose product is taken in bfloat16 and handed on in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` float32 -> ``[..., out]`` float32."""
        return F.linear(x.bfloat16(), self.weight.bfloat16()).float()


def zero_state_segments(modules: list[bytes], seed: int) -> Iterator[Tensor]:
    """Yield ``[STREAMS, SEGMENT+1]`` bytes from random places, endlessly."""
    text = torch.frombuffer(bytearray(b"".join(modules)), dtype=torch.uint8)
    random = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - SEGMENT - 1, (STREAMS,), generator=random)
        yield torch.stack([text[s : s + SEGMENT + 1] for s in starts.tolist()]).long()


def carried_segments(modules: list[bytes], seed: int) -> Iterator[Tensor]:
    """Yield consecutive ``[STREAMS, SEGMENT+1]`` segments; modules are shuffled every epoch."""
    random = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(modules), generator=random).tolist()
        text = torch.frombuffer(bytearray(b"".join(modules[i] for i in order)), dtype=torch.uint8)
        length = len(text) // STREAMS
        lines = text[: length * STREAMS].view(STREAMS, length)
        for start in range(0, length - SEGMENT - 1, SEGMENT):
            yield lines[:, start : start + SEGMENT + 1].long()


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for all else."""
    inner, outer, plain = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name.endswith("conv"):
            plain.append(parameter)
        elif name.startswith("layers.") and "gates" not in name:
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
    """Share of the peak rate: warm-up, plateau, and a straight fall over the last ``decay``."""
    return min(1.0, (step + 1) / WARM_UP_STEPS, (steps - step) / (decay * steps))


def detached(state: State, start: State, keep: Tensor) -> State:
    """Cut the gradient and set the streams where ``keep [B]`` is 0 back to the start."""
    kept = {name: keep.view(-1, *[1] * (t.ndim - 1)) for name, t in state.items()}
    return {n: t.detach() * kept[n] + start[n] * (1.0 - kept[n]) for n, t in state.items()}


def build(kind: str) -> Network | LSTM:
    """Make an untrained model: ``dst`` (size small) or ``lstm`` of as many parameters."""
    return Network(sized("small")) if kind == "dst" else LSTM()


def train(args: argparse.Namespace) -> None:
    """Run the two phases from wherever the last checkpoint stands."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = args.out / "checkpoint.pt", args.out / "log.jsonl"
    training, _ = split()
    modules = list(training.values())
    model = build(args.model)
    made = optimizers(model, args.rate)
    for module in model.modules():
        if type(module) is nn.Linear and module.out_features >= 64:
            module.__class__ = HalfLinear
    state, step, seconds = model.initial_state(STREAMS), 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, values in zip(made, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        state, step, seconds = saved["state"], saved["step"], saved["seconds"]
        torch.set_rng_state(saved["random"])
        print(f"going on from step {step}")
    if isinstance(model, Network):
        for layer in model.layers:
            layer.compile(dynamic=False)

    near, far = zero_state_segments(modules, args.seed), carried_segments(modules, args.seed)
    for done in range(step):  # the data stands where it stood
        next(near if done < args.zero_state else far)
    none = torch.zeros(STREAMS)
    losses: list[float] = []
    since = time.perf_counter()
    while step < args.steps:
        segment = next(near if step < args.zero_state else far)
        for optimizer in made:
            for group in optimizer.param_groups:
                group["lr"] = args.rate * rate_at(step, args.steps, args.decay)
        outputs, state = model(segment[:, :-1], state)
        loss = F.cross_entropy(outputs["logits"].flatten(0, 1), segment[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        keep = (
            none if step < args.zero_state else (torch.rand(STREAMS) >= RESET_PROBABILITY).float()
        )
        state = detached(state, model.initial_state(STREAMS), keep)
        losses.append(loss.item())
        if step % 50 == 0 or step == args.steps:
            now = time.perf_counter()
            seconds, since = seconds + now - since, now
            row = {
                "step": step,
                "bytes": step * STREAMS * SEGMENT,
                "bits_per_byte": round(sum(losses) / len(losses) / math.log(2), 4),
                "rate": round(args.rate * rate_at(step - 1, args.steps, args.decay), 6),
                "seconds": round(seconds),
            }
            losses.clear()
            print(json.dumps(row), flush=True)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if step % 250 == 0 or step == args.steps:
            parts = {
                "kind": args.model,
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in made],
                "state": state,
                "step": step,
                "seconds": seconds,
                "random": torch.get_rng_state(),
            }
            fresh = checkpoint.with_suffix(".new")
            torch.save(parts, fresh)
            fresh.replace(checkpoint)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and log")
    parser.add_argument("--model", choices=["dst", "lstm"], default="dst")
    parser.add_argument("--steps", type=int, default=8000, help="of 8 x 512 bytes each")
    parser.add_argument("--zero-state", type=int, default=600, help="steps of the first phase")
    parser.add_argument("--decay", type=float, default=0.4, help="share of the falling rate")
    parser.add_argument("--rate", type=float, default=5e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
