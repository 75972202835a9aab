"""From a classifier of ten lines to a running bundle: export it, then stream readings through it.

    python examples/own_lstm.py

The module is plain torch and knows nothing of bundles. Five lines make a bundle of it and run it;
torch plays no part in the running.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dst.export import export_bundle
from dst.runtime import Session


class Classifier(nn.Module):
    """Says for each reading of three sensors which of four things is going on."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(
        self, readings: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``readings [B, T, 3]`` -> ``scores [B, T, 4]``."""
        hidden, state = self.lstm(readings, state)
        return self.head(hidden), state


def main() -> None:
    """Export, stream, and compare with torch."""
    torch.manual_seed(0)
    model = Classifier()  # train it first
    readings = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier"

        example = torch.randn(1, 16, 3)  # B, T, sensors
        export_bundle(model, path, chunk=example, t=(1, 16), certify_steps=200, tell=print)
        stream = Session.open(path).stream()
        scores = stream.advance(readings)["output"]  # steps of 16; what is left waits
        rest = stream.flush()["output"]

    found = np.concatenate([scores, rest], axis=1)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(readings)[None])[0].numpy()
    print(f"{found.shape[1]} readings, largest difference {np.abs(found - expected).max():.0e}")


if __name__ == "__main__":
    main()
