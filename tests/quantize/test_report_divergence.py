"""Outputs of two forms of a step go in; KL, loss and relative error come out as defined."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.steps import PLAIN, chunk_of, contract_of, output_of, state_of

from dst.evaluate.quality.distance import divergence_for
from dst.runtime import surprise_bits
from dst.runtime.bundle.manifest import Contract, Features, Normalisation, Output, Tokens

T, CLASSES = 5, 7
Floats = npt.NDArray[np.float64]


def contract(content: Tokens | Features, *outputs: Output) -> Contract:
    width = None if isinstance(content, Tokens) else 2
    chunk = chunk_of(content, (T,), width, name="x", tail="refuse")
    return contract_of(chunk, outputs, [state_of("h", ("B", 1))])


def logits(per_item: bool = True) -> Output:
    return output_of("logits", ("B", "T", CLASSES) if per_item else ("B", CLASSES), "logits")


def gaussian(name: str) -> Output:
    return output_of(name, ("B", "T", 2), "gaussian")


TOKENS = Tokens(vocabulary=CLASSES, tokenizer="none")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(-1e4, 1e4))
def test_kl_is_the_sum_over_classes_and_ignores_a_shift(seed: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    p, q = random.normal(size=(2, 1, T, CLASSES), scale=3)
    following = random.integers(0, CLASSES, T)
    found = divergence_for(contract(TOKENS, logits())).distance(
        {"logits": p}, {"logits": q + shift}, following
    )
    for i in range(T):
        a = np.exp(p[0, i]) / np.exp(p[0, i]).sum()
        b = np.exp(q[0, i]) / np.exp(q[0, i]).sum()
        kl = sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))
        assert found.error[i, 0] == pytest.approx(kl, rel=1e-6, abs=1e-9)
    assert found.losses is not None
    assert found.losses[:, 0] == pytest.approx(surprise_bits(p[0], following) * math.log(2))


def test_the_same_outputs_are_no_way_apart() -> None:
    p = np.random.default_rng(0).normal(size=(1, T, CLASSES))
    compare = divergence_for(contract(TOKENS, logits()))
    found = compare.distance({"logits": p}, {"logits": p}, np.zeros(T, np.int64))
    assert not found.error.any()
    assert compare.judges_loss
    assert compare.unit == "nats"


def test_logits_over_features_have_a_kl_and_no_loss() -> None:
    compare = divergence_for(contract(PLAIN, logits(per_item=False)))
    p, q = np.random.default_rng(0).normal(size=(2, 1, CLASSES))
    found = compare.distance({"logits": p}, {"logits": q}, np.zeros((T, 2)))
    assert not compare.judges_loss
    assert found.losses is None
    assert not found.error[:-1].any()  # one output per chunk: it counts for the last item
    assert not found.scale[:-1].any()
    assert found.error[-1, 0] > 0


def test_gaussian_kl_and_loss_are_integrals_of_the_density() -> None:
    norm = Normalisation(mean=(1.0, -1.0), std=(2.0, 0.5))
    content = Features(names=(), sample_rate_hz=None, normalisation=norm)
    compare = divergence_for(contract(content, gaussian("mean"), gaussian("log_std")))
    random = np.random.default_rng(4)
    m, n = random.normal(size=(2, 1, T, 2))
    s, r = random.normal(size=(2, 1, T, 2), scale=0.3)
    following = random.normal(size=(T, 2))
    found = compare.distance(
        {"mean": m, "log_std": s}, {"mean": n, "log_std": r}, following.astype(np.float32)
    )
    x = np.linspace(-30, 30, 60_001)[:, None, None]

    def log_density(at: Floats, mean: Floats, log_std: Floats) -> Floats:
        square = ((at - mean) / np.exp(log_std)) ** 2
        return np.asarray(-0.5 * square - log_std - 0.5 * np.log(2 * np.pi), np.float64)

    p, q = log_density(x, m[0], s[0]), log_density(x, n[0], r[0])
    kl = (np.exp(p) * (p - q)).sum(axis=0) * (x[1, 0, 0] - x[0, 0, 0])
    assert found.error[:, 0] == pytest.approx(kl.sum(axis=1), rel=1e-6)
    seen = (following - np.array(norm.mean)) / np.array(norm.std)
    assert found.losses is not None
    assert found.losses[:, 0] == pytest.approx(-log_density(seen, m[0], s[0]).sum(axis=1), rel=1e-4)
    assert found.losses[:, 1] == pytest.approx(-log_density(seen, n[0], r[0]).sum(axis=1), rel=1e-4)


def test_relative_errors_are_kept_apart_by_output() -> None:
    small = output_of("small", ("T", "B", 2))
    large = output_of("large", ("B", 3))
    compare = divergence_for(contract(PLAIN, small, large))
    assert (compare.unit, compare.places, compare.judges_loss) == ("relative", 2, False)
    random = np.random.default_rng(0)
    right = {"small": random.normal(size=(T, 1, 2)), "large": 1e6 * random.normal(size=(1, 3))}
    other = {"small": 1.1 * right["small"], "large": 1.2 * right["large"]}
    found = compare.distance(right, other, np.zeros((T, 2)))
    ratio = found.error.sum(axis=0) / found.scale.sum(axis=0)
    assert np.sqrt(ratio) == pytest.approx([0.1, 0.2])
    assert found.error[:, 0] / found.scale[:, 0] == pytest.approx([0.01] * T)
