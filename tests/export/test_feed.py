"""The feed model: any scale, any cut, habits in the state, one alert for one event."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from dst.export.errors import ExportError
from dst.export.feed.calibrate import knots_of
from dst.export.feed.network import Feed, day_parts
from dst.export.feed.scoring import CAP, Surprise
from dst.export.feed.statistics import EXPERTS
from dst.export.feed.train import fit, items_of
from dst.runtime.monitor.calendar import time_inputs

MONDAY_S = 18_001 * 86_400.0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> Feed:
    torch.manual_seed(0)
    return Feed().eval()


def items(values: np.ndarray[tuple[int], np.dtype[np.float64]], period_s: float = 600.0) -> Tensor:
    """`[1, n, 3]`, a value every ten minutes from a Monday on."""
    times = time_inputs(MONDAY_S + period_s * np.arange(len(values)))
    return torch.from_numpy(np.concatenate([values[:, None].astype(np.float32), times], 1))[None]


def daily(n: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A wave of the day with a little noise."""
    noise = np.random.default_rng(seed).normal(size=n)
    return 50 + 10 * np.sin(2 * np.pi * np.arange(n) / 144) + 0.3 * noise


def run(model: Feed, chunk: Tensor, size: int = 256) -> dict[str, Tensor]:
    state, found = model.initial_state(len(chunk)), []
    with torch.no_grad():
        for start in range(0, chunk.shape[1], size):
            outputs, state = model(chunk[:, start : start + size], state)
            found.append(outputs)
    return {name: torch.cat([part[name] for part in found], 1) for name in found[0]}


def test_the_cut_into_chunks_does_not_matter(model: Feed) -> None:
    chunk = items(daily(96))
    whole, one = run(model, chunk), run(model, chunk, 1)
    for name, expected in whole.items():
        rms = expected.square().mean().sqrt().clamp(min=1e-3)
        assert float((one[name] - expected).abs().max() / rms) < 1e-4, name


def test_the_unit_of_the_values_does_not_matter(model: Feed) -> None:
    values = daily(300)
    plain, scaled = run(model, items(values)), run(model, items(values * 2.0**20))
    assert torch.allclose(plain["quantiles"] * 2.0**20, scaled["quantiles"], rtol=1e-4)
    assert torch.allclose(plain["surprise"], scaled["surprise"], rtol=1e-2, atol=1e-2)


def test_quantiles_rise(model: Feed) -> None:
    steps = run(model, items(daily(200)))["quantiles"].diff(dim=-1)
    assert float(steps.min()) >= 0


def test_the_habit_of_the_day_is_kept_in_the_state(model: Feed) -> None:
    """After some days, the habit says a job from four to five o'clock, and nothing else."""
    values = np.random.default_rng(0).normal(size=144 * 7)
    values.reshape(7, 144)[:, 24:30] += 30
    state, chunk = model.initial_state(1), items(values)
    with torch.no_grad():
        times, _ = day_parts(chunk[..., 1:], state["clock"])
        known, _ = model.running(chunk[..., :1], times, state, model.core.forms.delta_rule)
    habit = known.experts[0, :, 0, EXPERTS.index("day_slow")] + known.origin[0, 0, 0]
    today = habit[144 * 6 - 1 :]  # said one item ahead
    assert float(today[27]) > 15
    assert float(today[:22].abs().max()) < 8
    assert float(today[32:].abs().max()) < 8


def test_without_times_nothing_is_taken_for_a_habit(model: Feed) -> None:
    chunk = items(daily(300))
    chunk[..., 1] = -1.0
    other = chunk.clone()
    other[..., 2] = 77.0
    first, second = run(model, chunk), run(model, other)
    assert torch.equal(first["quantiles"], second["quantiles"])


def test_one_event_alerts_once(model: Feed) -> None:
    values = daily(1500)
    values[1200:1210] += 60
    alert = run(model, items(values))["alert"][0]
    assert int(alert[1000:].argmax()) == 200
    assert int((alert[1000:] > 0.5 * alert[1200]).sum()) == 1


def test_the_surprise_is_the_tail_of_the_foreseen_distribution() -> None:
    surprise = Surprise((0.1, 0.5, 0.9))
    quantiles = torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    at = [torch.full((1, 1, 1), value) for value in (0.0, 1.0, -1.0, 1e9)]
    told = [sum(surprise(value, quantiles, torch.zeros(1, 1, 1))).item() for value in at]
    tail = -np.log(2 * 0.1)
    assert told == pytest.approx([0.0, tail, tail, CAP], abs=1e-5)


def test_knots_state_the_rate_of_what_they_were_made_of() -> None:
    scores = np.random.default_rng(0).exponential(size=100_000)
    knots = knots_of(scores)
    for score, level in knots[1:-1]:
        assert (scores >= score - 1e-5).mean() == pytest.approx(10.0**-level, rel=0.05)
    assert all(a < b for a, b in pairwise(knots))
    assert knots[-1][1] == 6.0


def test_knots_of_nothing_odd_still_rise() -> None:
    assert knots_of(np.zeros(5000)) == ((0.0, 0.0), (1.0, 6.0))


def test_a_table_is_checked() -> None:
    with pytest.raises(ExportError, match="at least 1000") as few:
        items_of(np.zeros((10, 1)), None)
    with pytest.raises(ExportError, match="finite") as holes:
        items_of(np.full((2000, 1), np.nan), None)
    assert {few.value.code, holes.value.code} == {"feed-data"}


def test_a_fit_keeps_the_best_model_and_calibrates_on_rows_of_its_own() -> None:
    table = np.stack([daily(1200), daily(1200, 1) * 3], 1)
    seconds = MONDAY_S + 600.0 * np.arange(1200)
    model, found = fit(items_of(table, seconds), ("a", "b"), seconds=0.5)
    assert found.steps >= 1
    assert found.loss <= found.start_loss
    assert 0.5 < found.test_inside <= 1.0
    outputs = run(model, torch.from_numpy(items_of(table, seconds))[None, :64])
    assert outputs["quantiles"].shape == (1, 64, 2, 11)
    assert model.contract.chunk.shape == ("B", "T", 4)
