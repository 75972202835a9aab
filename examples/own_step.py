"""Write a contract by hand, export the step, and send an endless sensor stream through the bundle.

    python examples/own_step.py

The step keeps a running mean and variance of every channel and says how unusual each new reading
is. It carries its contract, is exported with its certificates, and is then driven by the runtime,
in which torch plays no part: readings come in bursts of any length. `own_lstm.py` shows the shorter
way, in which the contract is found by running the module.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dst.export import Step, export_bundle
from dst.runtime import Session
from dst.runtime.bundle.manifest import Chunk, Contract, Features, Fill, Output, State, Zeros

CHANNELS = ("temperature", "vibration")
KEEP = 0.99
"""Share of the running figures that one reading leaves; a memory of about 100 readings."""


class Unusual(Step):
    """``z = (x - mean) / std`` against exponentially weighted mean and variance so far."""

    def __init__(self) -> None:
        super().__init__()
        shape = ("B", len(CHANNELS))
        self.contract = Contract(
            chunk=Chunk(
                input="readings",
                dtype="float32",
                shape=("B", "T", len(CHANNELS)),
                nominal_t=16,
                allowed_t=(1, 16),
                content=Features(names=CHANNELS, sample_rate_hz=50.0),
            ),
            outputs=(Output(name="z", dtype="float32", shape=("B", "T", len(CHANNELS))),),
            state=tuple(
                State(input=name, output=f"next.{name}", dtype="float32", shape=shape, init=start)
                for name, start in (("mean", Zeros()), ("variance", Fill(value=1.0)))
            ),
        )

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Mean 0 and variance 1, each ``[B, 2]``."""
        shape = (batch, len(CHANNELS))
        return {"mean": torch.zeros(shape), "variance": torch.ones(shape)}

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """``chunk [B, T, 2]`` -> ``z [B, T, 2]``."""
        before, mean = running(chunk, state["mean"])
        distance = chunk - before
        spread, variance = running(distance.square(), state["variance"])
        return {"z": distance / spread.sqrt()}, {"mean": mean, "variance": variance}


def running(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Exponentially weighted means of ``x [B, T, C]``: before each item, and after the last.

    Written for a whole chunk at once, so that the cut into chunks does not matter.
    """
    age = torch.arange(x.shape[1] + 1, dtype=x.dtype)
    since = age[:, None] - age[None, :-1]  # (T+1, T): items between a reading and a place
    weight = (1.0 - KEEP) * KEEP ** (since - 1.0).clamp(min=0.0) * (since > 0)
    means = weight @ x + (KEEP**age)[:, None] * start[:, None]  # (B, T+1, C)
    return means[:, :-1], means[:, -1]


def sensor(readings: int) -> npt.NDArray[np.float32]:
    """Two channels ``[n, 2]`` of drifting noise, with one knock that does not belong there."""
    random = np.random.default_rng(0)
    drift = np.sin(np.arange(readings) / 500.0)[:, None] * [2.0, 0.5]
    signal = drift + random.normal(scale=[0.2, 0.05], size=(readings, 2))
    signal[readings * 3 // 4, 1] += 1.0
    return signal.astype(np.float32)


def main() -> None:
    """Export, then stream in bursts and report what stands out."""
    signal = sensor(20_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unusual"
        manifest = export_bundle(Unusual(), path, name="unusual", data=signal, certify_steps=200)
        for certificate in manifest.certificates:
            print(f"{certificate.name}: {certificate.worst:.1e} of {certificate.bound:.0e}")
        stream = Session.open(path).stream()
        at, found = 0, []
        for burst in np.array_split(signal, 777):
            z = stream.advance(burst)["z"][0]
            found += [(at + i, c) for i, c in np.argwhere(np.abs(z) > 8.0).tolist()]
            at += len(z)
        stream.save(Path(folder) / "state.safetensors")
    for reading, channel in found:
        print(f"reading {reading}: {CHANNELS[channel]} stands out")


if __name__ == "__main__":
    main()
