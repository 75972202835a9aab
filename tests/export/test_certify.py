"""Laws of the certificates: what a bound and a growth mean, at both sides of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests import honest, signed
from tests.signed import Core, Signed
from tests.steps import Tail
from torch import Tensor

from dst.export import CertificateError, ExportError, StepFaultError, export_bundle
from dst.export import export as bundle
from dst.export.certify import BOUND, Form, Tensors, certify, onnx_form
from dst.export.export import WHOLE, _cut
from dst.runtime import open_bundle
from dst.runtime.bundle.manifest import Certificate, Contract

Array = npt.NDArray[np.generic]


def data() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(300, signed.FEATURES)).astype(np.float32)


def form(errors: list[float], tensor: str) -> Form:
    """Ones everywhere, but for an error at one place of one tensor in each step.

    The other places of the state are small, so that its rms is a tenth of its peak.
    """
    left = iter(errors)

    def run(chunk: Array, state: Tensors) -> tuple[Tensors, Tensors]:
        y = np.ones((1, 1, 2), np.float64)
        h = np.zeros((1, signed.HIDDEN), np.float64)
        h[0, 0] = 1.0
        (y if tensor == "y" else h).flat[0] += next(left, 0.0)
        return {"y": y}, {"h": h}

    return run


def certified(errors: list[float], tensor: str, bound: float = BOUND) -> Certificate:
    contract = Signed(Core(), (1,)).contract
    return certify(
        "one-vs-other",
        form([], tensor),
        form(errors, tensor),
        contract,
        {},
        data(),
        "noise",
        steps=len(errors),
        t=1,
        bound=bound,
    )


def rising(first: float, last: float) -> list[float]:
    return list(np.geomspace(first, last, 400))


@pytest.mark.parametrize("tensor", ["y", "h"])
@pytest.mark.parametrize("bound", [1e-5, 1e-3])
def test_growth_below_a_tenth_of_the_bound_is_no_drift(tensor: str, bound: float) -> None:
    found = certified(rising(1e-5 * bound, 0.09 * bound), tensor, bound)
    assert found.passed
    assert found.decile_ratio == 1.0
    assert found.bound == bound


@pytest.mark.parametrize("tensor", ["y", "h"])
@pytest.mark.parametrize("bound", [1e-5, 1e-3])
def test_growth_above_a_tenth_of_the_bound_is_refused(tensor: str, bound: float) -> None:
    with pytest.raises(CertificateError, match=rf"`{tensor}` ratio"):
        certified(rising(0.1 * bound, 0.9 * bound), tensor, bound)


@pytest.mark.parametrize("tensor", ["y", "h"])
def test_growth_of_a_level_error_is_no_growth(tensor: str) -> None:
    assert certified([0.9 * BOUND] * 400, tensor).passed


def test_the_growth_of_a_state_is_taken_of_its_peak() -> None:
    found = certified(rising(1e-8, 0.9e-6), "h")  # of the rms it is twice that, and grows
    assert found.worst_state > BOUND / 10 > found.worst_state_of_peak
    assert found.decile_ratio == 1.0


@pytest.mark.parametrize("tensor", ["y", "h"])
def test_a_larger_bound_accepts_what_the_default_refuses(tensor: str) -> None:
    errors = [5e-4] * 20
    with pytest.raises(CertificateError, match=r"errors of at most 1e-05.*`--bound`"):
        certified(errors, tensor)
    found = certified(errors, tensor, bound=1e-3)
    assert found.passed
    assert found.bound == 1e-3


def test_a_raised_bound_is_written_down_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slightly_off(graph: bytes, contract: Contract, folder: Path, answers: str | None) -> Form:
        right = onnx_form(graph, contract, folder, answers)

        def run(chunk: Array, state: Tensors) -> tuple[Tensors, Tensors]:
            outputs, after = right(chunk, state)
            return {name: np.multiply(v, np.float32(1.001)) for name, v in outputs.items()}, after

        return run

    monkeypatch.setattr(bundle, "onnx_form", slightly_off)

    def export(bound: float = BOUND, given: Array | None = None) -> list[str]:
        told: list[str] = []
        export_bundle(
            Signed(Core(), (1, 4)),
            tmp_path / "b",
            data=given,
            certify_steps=20,
            bound=bound,
            portable_t=(),
            overwrite=True,
            tell=told.append,
        )
        return told

    with pytest.raises(CertificateError, match="ran on random items: give real ones by `data=`"):
        export()
    with pytest.raises(CertificateError, match=r"nothing was written\. Where the model is right"):
        export(given=data())
    told = export(bound=1e-2, given=data())
    assert "! certificates accept errors up to 0.01, more than the default of 1e-05" in told
    manifest = open_bundle(tmp_path / "b").manifest
    assert {c.bound for c in manifest.certificates} == {1e-2}
    assert max(c.worst for c in manifest.certificates) > BOUND
    with pytest.raises(ExportError, match="bound is 1e-09"):
        export(bound=1e-9, given=data())


@pytest.mark.parametrize(
    ("tail", "t", "expected"),
    [
        ("exact", (1, 4), (1, 4)),
        ("refuse", (4, 8), (4, 8)),
        ("refuse", (4,), None),
        ("refuse", (3, 4), None),
        ("refuse", (2, 3, 9), (3, 9)),
    ],
)
def test_torch_is_held_against_itself_wherever_two_sizes_divide(
    tail: Tail, t: tuple[int, ...], expected: tuple[int, int] | None
) -> None:
    assert _cut(Signed(Core(), t, tail).contract) == expected


def test_the_certificate_of_the_cut_is_written_under_any_tail(tmp_path: Path) -> None:
    step = Signed(honest.PooledAnswer(), (2, 4), "refuse")
    export_bundle(step, tmp_path / "b", data=data(), certify_steps=20, portable_t=())
    names = [c.name for c in open_bundle(tmp_path / "b").manifest.certificates]
    assert WHOLE in names


class Slow(Core):
    """Goes wrong only after many items, so that a few steps do not show it."""

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> signed.Pair:
        y, h = self.run(x, s["h"])
        late = (s["n"] > 600)[:, None].float()
        h = h * (1 - 0.5 * late)
        return self.head(y), {"h": h, "n": s["n"] + x.shape[1]}

    start = signed.starting(
        h=torch.zeros(1, signed.HIDDEN),
        n=torch.zeros(1, dtype=torch.int64),
    )


def test_a_cut_that_shows_late_is_found_by_the_certificate(tmp_path: Path) -> None:
    with pytest.raises(StepFaultError, match="the cut matters") as caught:
        export_bundle(Signed(Slow(), (4, 8), "refuse"), tmp_path / "b", data=data(), portable_t=())
    assert caught.value.code == "cut-matters"
    assert list(tmp_path.iterdir()) == []
