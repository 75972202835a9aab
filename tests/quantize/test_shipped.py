"""The shipped text model goes in; size and loss of its quantized forms keep their budgets."""

from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dst.quantize import quantize_bundle
from dst.runtime import Session, replay_golden, surprise_bits
from dst.runtime.bundle.reader import open_bundle

BYTES = 4096
T = 32


def loss_nats(session: Session, items: npt.NDArray[np.int64]) -> float:
    """Mean surprise per byte of a stream that starts fresh, in nats."""
    stream = session.stream()
    rows = [stream.step(items[None, i : i + T])["logits"][0] for i in range(0, len(items), T)]
    logits = np.concatenate(rows)[:-1].astype(np.float64)
    return float(surprise_bits(logits, items[1:]).mean() * np.log(2))


@pytest.fixture(scope="module")
def full() -> tuple[npt.NDArray[np.int64], float]:
    text = files("dst").joinpath("heldout", "stdlib.txt").read_bytes()[:BYTES]
    items = np.frombuffer(text, np.uint8).astype(np.int64)
    return items, loss_nats(Session.open("text", chunk_sizes=[T]), items)


@pytest.mark.parametrize(
    ("recipe", "size", "budget_nats"),
    [
        ("int8-dynamic", 0.30, 0.005),
        ("int8-rows", 0.30, 0.005),
        ("int4-weights", 0.20, 0.02),
        ("int4-rows", 0.20, 0.02),
    ],
)
def test_size_and_loss_keep_their_budgets(
    recipe: str,
    size: float,
    budget_nats: float,
    full: tuple[npt.NDArray[np.int64], float],
    tmp_path: Path,
) -> None:
    done = quantize_bundle("text", tmp_path / "q", recipe)
    before, after = done.weights_bytes
    assert after <= size * before
    left = Counter(r.role for r in done.records if r.form == "float32")
    assert left == {"gate": 2, "operator": 2}  # the convolutions of the graph for single steps
    assert all(check.passed for check in replay_golden(open_bundle(tmp_path / "q")))
    items, right = full
    loss = loss_nats(Session.open(tmp_path / "q", chunk_sizes=[T]), items)
    assert loss != right
    assert loss - right <= budget_nats
    assert done.bundle.manifest.upgraded_from is None  # it is another bundle
    lowerings = {graph.lowering for graph in done.bundle.manifest.graphs}
    assert lowerings == {"fused", "portable"}
