"""The judge of anomalies scores as its paper says; made-up streams have known best forecasts."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples/train"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "examples/evaluate/feed"))

import known
import nab
from detectors import seasonal_naive, windowed_gaussian
from feeds.streams import stream

N = 1000


def file(*windows: tuple[int, int]) -> nab.File:
    edges = np.array(windows, np.int64).reshape(-1, 2)
    return nab.File("made", [""] * N, np.zeros(N), edges)


def at(*rows: int) -> nab.Floats:
    scores = np.zeros(N)
    scores[list(rows)] = 1.0
    return scores


def score(given: nab.File, *rows: int) -> float:
    return nab.judge([given], [at(*rows)], 1.0).score


def test_silence_is_0_and_the_first_row_of_each_window_100() -> None:
    windows = file((300, 399), (600, 699))
    assert score(windows) == 0.0
    assert score(windows, 300, 600) == 100.0


def test_a_detection_counts_the_more_the_earlier_it_is_and_once() -> None:
    window = file((300, 399))
    early, late = score(window, 310), score(window, 390)
    assert 100.0 > early > late > 50.0  # a late one still spares the cost of a miss
    assert score(window, 310, 320, 390) == early


def test_false_detections_cost_and_those_in_probation_do_not() -> None:
    window = file((300, 399))
    assert score(window, 300, 100, 149) == 100.0  # 15 % of 1,000 rows are not judged
    assert score(window, 300, 150) == pytest.approx(100 - 100 * 0.11 / 2, abs=0.01)
    assert score(window, 300, 900) == pytest.approx(100 - 100 * 0.11 / 2, abs=0.01)
    assert 100.0 > score(window, 300, 401) > score(window, 300, 440)  # just behind it costs less


def test_the_best_threshold_is_found() -> None:
    window, scores = file((300, 399)), np.random.default_rng(0).random(N)
    scores[305] = 0.9
    levels = np.unique(scores)
    best = max(nab.judge([window], [scores], level).score for level in levels)
    assert nab.judge([window], [scores]).score == max(best, 0.0)


def test_baselines_look_at_nothing_ahead() -> None:
    values = np.random.default_rng(0).normal(size=600)
    seconds = np.arange(0.0, 600 * 3600.0, 3600.0)
    other = values.copy()
    other[400:] += 100
    assert np.array_equal(windowed_gaussian(values)[:400], windowed_gaussian(other)[:400])
    assert np.array_equal(
        seasonal_naive(values, seconds)[:400], seasonal_naive(other, seconds)[:400]
    )
    assert windowed_gaussian(other)[400] > 0.999999


def test_no_linear_forecast_beats_the_filter_that_knows_the_process() -> None:
    values, foreseen = known.arma(np.random.default_rng(1), 4000)
    miss = float(((values - foreseen)[2005:] ** 2).mean())
    past = np.stack([values[5 - lag : -lag] for lag in range(1, 6)], 1)
    weights = np.linalg.lstsq(past[:2000], values[5:2005], rcond=None)[0]
    fitted = float(((values[5:] - past @ weights)[2000:] ** 2).mean())
    assert miss < fitted < float(values.var())


def test_the_nats_of_quantiles_are_those_of_the_distribution() -> None:
    from statistics import NormalDist

    levels = np.linspace(0.005, 0.995, 199)
    quantiles = np.array([[NormalDist().inv_cdf(level) for level in levels]])
    values = np.random.default_rng(0).normal(size=20_000)
    nats = known.nats_of(np.repeat(quantiles, len(values), 0), levels, values)
    assert nats.mean() == pytest.approx(0.5 * np.log(2 * np.pi * np.e), abs=0.02)
    assert known.mean_of(quantiles + 3.0, levels)[0] == pytest.approx(3.0, abs=0.01)


def test_made_up_streams_are_finite_and_no_two_are_alike() -> None:
    made = [stream(np.random.default_rng(seed), 700) for seed in range(60)]
    assert all(np.isfinite(items).all() and items.shape == (700, 3) for items in made)
    assert len({items[:, 0].tobytes() for items in made}) == len(made)
    again = stream(np.random.default_rng(3), 700)
    assert np.array_equal(again, made[3])
