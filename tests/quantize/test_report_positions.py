"""Sums per item go in; means over ranges of positions, growth and gates come out right."""

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dst.evaluate.quality.bins import BLOCK_ITEMS, Bins, edges
from dst.evaluate.quality.gates import (
    Budget,
    Growth,
    gates_of,
    growth_of,
    worst_loss,
)
from dst.evaluate.quality.rollout import Rollout
from dst.runtime.bundle.manifest import Gate
from dst.runtime.bundle.validation import passed

Floats = npt.NDArray[np.float64]


@given(st.integers(1, 10**8))
def test_ranges_rise_to_the_length_and_none_is_a_sliver(length: int) -> None:
    ends = edges(length)
    assert ends[-1] == length
    assert list(ends) == sorted(set(ends))
    assert ends[0] <= 18
    for before, end in itertools.pairwise(ends):
        assert 10 ** (0.5 / 4) - 0.1 < end / before < 10 ** (1.5 / 4) + 0.1


def test_a_million_items_have_five_decades_of_four_ranges() -> None:
    ends = edges(1_000_000)
    assert len(ends) == 21
    assert {10, 100, 1_000, 10_000, 100_000} <= set(ends)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 700), min_size=1, max_size=12))
def test_how_items_are_cut_changes_no_mean(seed: int, cuts: list[int]) -> None:
    random = np.random.default_rng(seed)
    length = sum(cuts)
    above, below = random.random((2, length, 2))
    losses = random.random((length, 2))
    bins = Bins(edges(length), 2, root=False)
    start = 0
    for count in cuts:
        part = slice(start, start + count)
        bins.add(start, above[part], below[part], losses[part])
        start += count
    bins.close()
    begin = 0
    for where, end in enumerate(bins.ends):
        part = slice(begin, end)
        right = np.mean(above[part].sum(axis=0) / below[part].sum(axis=0))
        assert bins.value(where) == pytest.approx(right, rel=1e-12)
        assert bins.sums(where).items == end - begin
        assert bins.sums(where).losses == pytest.approx(losses[part].sum(axis=0), rel=1e-12)
        begin = end


def test_the_error_of_a_mean_is_that_of_its_blocks() -> None:
    count = 20
    values = np.repeat(np.random.default_rng(1).random(count), BLOCK_ITEMS)[:, None]
    bins = Bins((len(values),), 1, root=False)
    for start in range(0, len(values), 64):
        part = values[start : start + 64]
        bins.add(start, part, np.ones_like(part), None)
    bins.close()
    blocks = values[::BLOCK_ITEMS, 0]
    assert bins.error(0) == pytest.approx(blocks.std(ddof=1) / math.sqrt(count), rel=1e-9)


def test_one_block_has_no_error() -> None:
    bins = Bins((8,), 1, root=False)
    bins.add(0, np.ones((8, 1)), np.ones((8, 1)), None)
    bins.close()
    assert bins.error(0) is None


def test_nothing_over_nothing_is_no_distance_and_something_is_all() -> None:
    bins = Bins((4,), 2, root=True)
    bins.add(0, np.array([[0.0, 9.0]] * 4), np.zeros((4, 2)), None)
    bins.close()
    assert bins.value(0) == pytest.approx(math.sqrt(0.5))


# --- growth and gates, on curves made by hand


@functools.cache
def ran(
    length: int,
    per_decade: float = 0.0,
    noise: float = 0.1,
    loss: float = 0.001,
    bump: tuple[int, int, float] = (0, 0, 0.0),
    judges_loss: bool = True,
) -> Rollout:
    """A rollout whose KL is 0.01, times `1 + per_decade` for each decade beyond item 1,000."""
    random = np.random.default_rng(3)
    bins = Bins(edges(length), 1, root=False)
    for run, end in enumerate((length, *(min(length, 10_000) for _ in range(16)))):
        for start in range(0, end, 4096):
            places = np.arange(start, min(end, start + 4096))
            decades = np.log10(np.maximum(places, 1_000) / 1_000)
            ripple = 1 + noise * np.sin(places / 2_000 + run)
            kl = 0.01 * (1 + per_decade) ** decades * ripple * random.uniform(0.5, 1.5, len(places))
            losses = np.stack([np.full(len(places), 1.0), np.full(len(places), 1.0 + loss)], axis=1)
            losses[(places >= bump[0]) & (places < bump[1]), 1] += bump[2]
            bins.add(start, kl[:, None], np.ones((len(places), 1)), losses)
        bins.close()
    return Rollout(
        unit="nats" if judges_loss else "relative",
        items=length,
        free=bins,
        free_sampled=bins,
        injected=bins,
        state=bins,
        roles=("memory",),
        judges_loss=judges_loss,
        broke_at=None,
    )


def verdicts(rollout: Rollout, budget: Budget | None = None) -> dict[str, str]:
    gates = gates_of(rollout, growth_of(rollout), budget or Budget())
    return {gate.name: gate.verdict for gate in gates}


def test_a_flat_curve_of_a_million_items_passes_every_gate() -> None:
    flat = ran(1_000_000)
    gates = gates_of(flat, growth_of(flat), Budget())
    assert [gate.verdict for gate in gates] == ["passed"] * 4
    assert passed(gates) is True


def test_growth_is_found_as_large_as_it_is() -> None:
    growth = growth_of(ran(1_000_000, per_decade=0.25, noise=0.0))
    assert growth.per_decade is not None
    assert growth.per_decade_lower is not None
    assert growth.per_decade_upper is not None
    assert growth.per_decade_lower < 0.25 < growth.per_decade_upper
    assert growth.per_decade == pytest.approx(0.25, abs=0.03)


def test_slow_growth_fails_the_slope_and_fast_growth_the_ratio_too() -> None:
    slow, fast = verdicts(ran(1_000_000, 0.25)), verdicts(ran(1_000_000, 0.6))
    assert (slow["growth-per-decade"], slow["last-over-early"]) == ("failed", "passed")
    assert (fast["growth-per-decade"], fast["last-over-early"]) == ("failed", "failed")


def test_a_short_flat_run_does_not_pass_the_horizon() -> None:
    flat = ran(200_000)
    assert growth_of(flat).last_over_early is not None
    found = verdicts(flat)
    assert found["last-over-early"] == "not judged"
    assert passed(gates_of(flat, growth_of(flat), Budget())) is None


def test_a_short_run_can_fail_the_horizon() -> None:
    assert verdicts(ran(200_000, per_decade=1.5))["last-over-early"] == "failed"
    assert verdicts(ran(200_000, per_decade=1.5))["growth-per-decade"] == "failed"


def test_uncertain_growth_counts_against_a_long_run_only() -> None:
    long = ran(1_000_000)
    unsure = Growth(1.0, 0.05, -0.2, 0.4)
    held = {g.name: g.verdict for g in gates_of(long, unsure, Budget())}
    assert held["growth-per-decade"] == "failed"
    short = replace(long, items=999_999)
    held = {g.name: g.verdict for g in gates_of(short, unsure, Budget())}
    assert held["growth-per-decade"] == "not judged"


def test_the_worst_range_decides_on_loss() -> None:
    assert worst_loss(ran(20_000, loss=0.001)) == pytest.approx(0.001)
    bumped = ran(20_000, loss=0.001, bump=(1_000, 1_778, 0.05))
    assert worst_loss(bumped) == pytest.approx(0.051)
    assert verdicts(bumped)["loss"] == "failed"
    assert verdicts(bumped, Budget(nats_per_item=0.06))["loss"] == "passed"


def test_a_few_items_are_judged_with_their_neighbours() -> None:
    bumped = ran(20_000, loss=0.0, bump=(0, 10, 1.0))
    first = bumped.free.sums(0)
    assert (first.losses[1] - first.losses[0]) / first.items == pytest.approx(1.0)
    assert 0 < worst_loss(bumped) < 0.2


def test_outputs_that_predict_nothing_are_judged_by_their_error() -> None:
    found = verdicts(ran(20_000, judges_loss=False), Budget(relative_error=0.02))
    assert found["error"] == "passed"
    found = verdicts(ran(20_000, judges_loss=False), Budget(relative_error=0.005))
    assert found["error"] == "failed"


def test_a_nan_fails_the_run() -> None:
    broken = replace(ran(20_000), broke_at=512)
    assert verdicts(broken)["finite"] == "failed"


def test_one_failure_outweighs_what_was_not_judged() -> None:
    def gate(verdict: str) -> Gate:
        value = {"passed": 0.0, "failed": 2.0, "not judged": None}[verdict]
        return Gate(name="g", value=value, bound=1.0, verdict=verdict)  # type: ignore[arg-type]

    assert passed([gate("passed"), gate("passed")]) is True
    assert passed([gate("passed"), gate("not judged")]) is None
    assert passed([gate("not judged"), gate("failed")]) is False
