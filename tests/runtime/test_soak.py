"""What a soak measures: the slope of memory that moves in jumps, and percentiles of times."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from dst.evaluate.soak import GROWTH_LIMIT, SLOPE_LIMIT, Slope, Times, judge, slope

Integers = npt.NDArray[np.int64]

STEPS = np.arange(2500, 10_000_001, 2500)
BASE, PAGE, ARENA = 100 << 20, 4096, 256 << 10


def found(resident: Integers) -> Slope:
    result = slope(STEPS, resident)
    assert result is not None
    return result


def staircase(per_step: float, stair: int) -> Integers:
    """Memory that a leak takes stair by stair."""
    return BASE + (STEPS * per_step).astype(np.int64) // stair * stair


def random_stairs(seed: int, stairs: float, stair: int) -> Integers:
    """Stairs at random steps, `stairs` of them in the mean."""
    source = np.random.default_rng(seed)
    at = source.integers(0, STEPS[-1], source.poisson(stairs))
    risen: Integers = np.searchsorted(np.sort(at), STEPS).astype(np.int64)
    return BASE + stair * risen


def test_flat_memory_is_flat_and_says_how_well_it_can_know() -> None:
    one = found(np.full(len(STEPS), BASE))
    assert one.mean == 0
    assert one.high == -one.low == pytest.approx(PAGE / (STEPS[-1] - STEPS[0]), rel=0.06)
    assert judge(STEPS, np.full(len(STEPS), BASE)).flat


def test_one_early_jump_is_forgiven_as_warm_up() -> None:
    jumped = np.where(STEPS < 800_000, BASE, BASE + (50 << 20))
    growth = judge(STEPS, jumped)
    assert growth.flat
    assert growth.growth_bytes == 0
    assert growth.slope is not None
    assert growth.slope.mean == 0


def test_one_late_jump_widens_the_interval_and_counts_by_its_size() -> None:
    small = np.where(STEPS < 5_000_000, BASE, BASE + ARENA)
    growth = judge(STEPS, small)
    assert growth.flat
    assert growth.slope is not None
    assert growth.slope.low < 0 < growth.slope.mean < growth.slope.high <= SLOPE_LIMIT
    large = np.where(STEPS < 5_000_000, BASE, BASE + GROWTH_LIMIT)
    growth = judge(STEPS, large)
    assert growth.growth_bytes == GROWTH_LIMIT
    assert not growth.flat


def test_what_comes_and_goes_is_no_growth() -> None:
    source = np.random.default_rng(0)
    noisy = BASE + PAGE * source.integers(0, 64, len(STEPS))
    spiked = noisy + np.where(np.arange(len(STEPS)) % 97 == 0, 600 << 10, 0)
    result = found(spiked)
    assert result.low < 0 < result.high < SLOPE_LIMIT
    assert judge(STEPS, spiked).flat


@pytest.mark.parametrize("stair", [PAGE, 64 << 10, ARENA, 1 << 20])
def test_a_slow_leak_is_seen_whatever_its_stairs(stair: int) -> None:
    result = found(staircase(0.5, stair))
    assert result.low <= 0.5 <= result.high
    assert result.low > 0
    assert not judge(STEPS, staircase(0.5, stair)).flat


@pytest.mark.parametrize("per_step", [0.11, 0.12])
def test_a_leak_just_above_the_limit_is_not_flat(per_step: float) -> None:
    assert not judge(STEPS, staircase(per_step, PAGE)).flat


def test_a_leak_far_below_the_limit_is_flat() -> None:
    assert judge(STEPS, staircase(0.01, PAGE)).flat


def covered(make: Callable[[int], Integers], truth: float, runs: int = 400) -> float:
    results = [found(make(seed)) for seed in range(runs)]
    return sum(r.low <= truth <= r.high for r in results) / runs


def test_the_interval_covers_the_truth_where_a_fitted_lines_does_not() -> None:
    """Stairs at random steps: nominally 95 %. The line through them is sure of itself and wrong."""
    stairs = 30.0
    truth = stairs * ARENA / float(STEPS[-1])
    assert covered(lambda seed: random_stairs(seed, stairs, ARENA), truth) >= 0.9

    def line_covers(seed: int) -> bool:
        resident = random_stairs(seed, stairs, ARENA).astype(np.float64)
        fit, covariance = np.polyfit(STEPS.astype(np.float64), resident, 1, cov=True)
        return bool(abs(fit[0] - truth) <= 1.96 * covariance[0, 0] ** 0.5)

    assert sum(line_covers(seed) for seed in range(100)) <= 50


def test_a_random_walk_is_covered_too() -> None:
    def walk(seed: int) -> Integers:
        steps = np.random.default_rng(seed).integers(-1, 2, len(STEPS))
        return BASE + PAGE * np.cumsum(steps)

    assert covered(walk, 0.0) >= 0.9


def test_short_runs_are_judged_by_growth_alone() -> None:
    steps = np.arange(10, 10_001, 10)
    creeping = BASE + (steps * 50) // PAGE * PAGE  # 0.5 MB in all: 50 bytes per step
    growth = judge(steps, creeping)
    assert growth.flat
    assert not growth.judged_by_slope
    assert growth.slope is not None
    assert growth.slope.low <= 50 <= growth.slope.high
    assert not judge(steps, BASE + (steps * 200) // PAGE * PAGE).flat


def test_few_samples_give_no_slope() -> None:
    steps = np.arange(1, 40)
    assert slope(steps, np.full(39, BASE)) is None
    growth = judge(steps[:1], np.full(1, BASE))
    assert (growth.flat, growth.slope, growth.growth_bytes) == (True, None, 0)


@pytest.mark.parametrize("percent", [0.1, 50, 95, 99, 99.9, 100])
def test_percentiles_are_those_of_sorting_to_a_bin(percent: float) -> None:
    source = np.random.default_rng(1)
    times = np.exp(source.normal(11, 1.5, 20_000)).astype(np.int64) + 1
    kept = Times()
    for time in times.tolist():
        kept.add(time)
    exact = float(np.percentile(times, percent, method="inverted_cdf"))
    assert exact <= kept.percentile_ns(percent) <= exact * 2 ** (1 / 32) * (1 + 1e-12)
    assert kept.max_ns == times.max()
    assert (kept.count, kept.total_ns) == (len(times), int(times.sum()))


def test_times_at_the_ends_of_the_range() -> None:
    kept = Times()
    assert kept.percentile_ns(50) == 0
    for time in (0, 1, 10**18):  # the last is thirty years, beyond the last bin
        kept.add(time)
    assert kept.percentile_ns(1) == pytest.approx(1, rel=0.03)
    assert kept.max_ns == 10**18
    assert kept.count == 3
