"""Candidates of small models are judged, by a planted clock; the choice keeps its rules."""

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper
from tests.quantize.conftest import NAMED, Plant, features_contract, written
from tests.quantize.conftest import ROWS as GOLDEN_ROWS
from tests.raising import refused
from tests.steps import drawn, info, model_bytes

from dst.evaluate import Spread
from dst.evaluate.quality import Budget, horizon_report
from dst.quantize import QuantizeError, quantize_bundle
from dst.quantize.autotune import (
    CANDIDATES,
    Autotuned,
    Goal,
    Refusal,
    Speed,
    Trial,
    Verdict,
    autotune,
    budget_for,
)
from dst.quantize.autotune.verdict import (
    best,
    gate_refusal,
    in_order,
    reason,
    size_refusals,
    speed_refusals,
)
from dst.runtime import StepError, open_bundle, replay_golden
from dst.runtime.bundle.manifest import Gate
from dst.runtime.errors import BundleExistsError

Array = npt.NDArray[np.generic]
ITEMS = np.random.default_rng(7).integers(0, 256, 3000)
ROWS = np.random.default_rng(8).normal(size=(2000, 64)).astype(np.float32)
QUICK = Trial(items=400, budget=Budget(nats_per_item=1.0))


def speed(t: int, median: float, low: float, high: float) -> Speed:
    return Speed(t=t, ratio=Spread(median=median, low=low, high=high))


# The rules, one by one


def test_the_clock_decides_what_is_slower_where_it_is_slower() -> None:
    """What is faster at one T and slower at the nominal one is called slower there alone."""
    (refusal,) = speed_refusals([speed(1, 1.47, 1.4, 1.5), speed(8, 0.9, 0.8, 0.99)], 8)
    assert refusal.why == (
        "slower than full precision at T = 8: 0.90× (0.80–0.99), though faster at T = 1: 1.47× "
        "(1.40–1.50)"
    )


def test_what_is_as_fast_holds_where_size_is_the_goal() -> None:
    level = [speed(1, 1.0, 0.97, 1.03), speed(8, 1.0, 0.97, 1.03)]
    assert [r.rule for r in speed_refusals(level, 8, "speed")] == ["speed"]
    assert speed_refusals(level, 8, "size") == []
    slow = [speed(8, 0.9, 0.8, 0.99)]
    assert [r.rule for r in speed_refusals(slow, 8, "size")] == ["speed"]


def test_what_is_not_smaller_is_refused() -> None:
    assert size_refusals(100, 99) == []
    assert [r.rule for r in size_refusals(100, 100)] == ["size"]


@pytest.mark.parametrize(
    ("speeds", "refused"),
    [
        ([speed(1, 1.5, 1.2, 1.8), speed(8, 1.5, 1.2, 1.8)], None),
        ([speed(1, 1.5, 1.2, 1.8), speed(8, 0.98, 0.9, 1.02)], None),  # surely faster at T = 1
        ([speed(1, 0.5, 0.4, 0.6), speed(8, 1.5, 1.2, 1.8)], None),
        ([speed(1, 1.5, 1.2, 1.8), speed(8, 0.9, 0.8, 0.99)], "slower than full precision at"),
        ([speed(1, 1.2, 0.99, 1.4), speed(8, 1.3, 0.9, 1.8)], "not surely faster"),
        ([speed(8, 1.3, 1.0, 1.8)], "not surely faster"),
        ([speed(1, 1.5, 1.2, 1.8)], "does not run T = 8"),
        ([], "does not run T = 8"),
    ],
)
def test_a_noisy_point_is_no_gain(speeds: list[Speed], refused: str | None) -> None:
    found = speed_refusals(speeds, nominal=8)
    assert [r.rule for r in found] == ([] if refused is None else ["speed"])
    assert refused is None or refused in found[0].why


@pytest.mark.parametrize(
    "name", ["loss", "error", "growth-per-decade", "last-over-early", "finite"]
)
def test_every_gate_that_fails_refuses(name: str) -> None:
    failed = Gate(name=name, value=0.5, bound=0.1, verdict="failed")
    refused = gate_refusal(failed)
    assert refused is not None
    assert refused.rule == name
    assert gate_refusal(msgspec.structs.replace(failed, bound=0.5, verdict="passed")) is None
    assert gate_refusal(Gate(name=name, value=None, bound=0.1, verdict="not judged")) is None


def judged(name: str, share: float, at: Speed, *refusals: Refusal) -> Verdict:
    return Verdict(
        recipe=name,
        t=at.t,
        weights_bytes=int(1000 * share),
        weights_share=share,
        speeds=(at,),
        report=None,
        refusals=refusals,
    )


def test_the_goals_order_what_holds() -> None:
    fast = judged("fast", 0.26, speed(8, 1.7, 1.6, 1.8))
    level = judged("level", 0.20, speed(8, 1.5, 1.4, 1.65))  # its interval reaches the fastest's
    small = judged("small", 0.15, speed(8, 1.0, 0.95, 1.05))
    heavy = judged("heavy", 0.261, speed(8, 1.75, 1.5, 1.9))  # as large as `fast`, to a hundredth
    pool = [small, fast, level, heavy]
    assert [j.recipe for j in in_order(pool, "speed")] == ["level", "heavy", "fast", "small"]
    assert [j.recipe for j in in_order(pool, "size")] == ["small", "level", "heavy", "fast"]
    assert best([], "speed") is None


def test_a_choice_is_explained_in_a_sentence() -> None:
    """1.37 before 1.49: why, in words; and why nothing, where nothing holds."""
    rows = judged("rows", 0.26, speed(8, 1.37, 1.33, 1.45))
    dynamic = judged("dynamic", 0.30, speed(8, 1.49, 1.40, 1.60))
    out = judged("out", 0.1, speed(8, 3.0, 2.9, 3.1), Refusal(rule="error", why="error 1"))
    assert best([rows, dynamic], "speed") is rows
    assert reason([rows, dynamic, out], rows, "speed") == (
        "rows was chosen (1.37× (1.33–1.45) at T = 8) before dynamic (1.49× (1.40–1.60) at T = 8), "
        "which is no faster for sure, since the 95 % intervals of their speeds overlap; rows is "
        "smaller (0.26 of full precision's bytes, 0.30 for the other)"
    )
    assert reason([rows, out], rows, "speed").startswith("rows was chosen, the only one that holds")
    assert "the smallest that holds" in reason([rows, dynamic], rows, "size")
    fast = judged("fast", 0.4, speed(8, 2.0, 1.9, 2.1))
    assert "the fastest that holds" in reason([rows, fast], fast, "speed")
    assert reason([out], None, "speed") == (
        "no recipe was chosen, because each was refused (out: error 1)"
    )


# Budgets


def test_a_budget_is_read_in_the_unit_of_the_outputs(
    text_bundle: Path, sensor_bundle: Path
) -> None:
    text, sensor = (open_bundle(p).manifest.contract for p in (text_bundle, sensor_bundle))
    assert budget_for("nats<0.005", text).nats_per_item == 0.005
    assert budget_for(" error < 5e-2 ", sensor).relative_error == 0.05


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("0.005", "expected nats<X"),
        ("nats<=0.005", "expected a number above 0"),
        ("nats<0", "expected a number above 0"),
        ("nats<nan", "expected a number above 0"),
        ("nats<inf", "expected a number above 0"),
        ("bits<1", "expected nats<X"),
        ("error<0.05", "predict the next item, so it is judged in nats"),
    ],
)
def test_other_budgets_are_refused(budget: str, message: str, text_bundle: Path) -> None:
    with refused(QuantizeError, "budget", match=message):
        budget_for(budget, open_bundle(text_bundle).manifest.contract)


# Picking, with the clock planted


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def two_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries two recipes only, where the others add nothing but time."""
    monkeypatch.setattr("dst.quantize.autotune.tune.CANDIDATES", ("int8-weights", "int4-weights"))


ALL_FASTER = dict(zip(CANDIDATES, (2.0, 1.8, 1.6, 1.4, 1.3, 1.2), strict=True))


def chosen(picked: Autotuned) -> str:
    assert picked.chosen is not None
    assert picked.chosen in picked.verdicts
    assert picked.chosen.holds
    return picked.chosen.recipe


@pytest.mark.parametrize(
    ("goal", "recipe"), [("speed", "int8-dynamic, non-causal"), ("size", "int4-weights")]
)
def test_the_best_that_holds_is_written(
    goal: Goal, recipe: str, text_bundle: Path, tmp_path: Path, temporary: Path, clock: Plant
) -> None:
    clock(ALL_FASTER)
    picked = autotune(text_bundle, tmp_path / "out", ITEMS, goal, QUICK)
    assert chosen(picked) == recipe
    assert [j.recipe.split(",")[0] for j in picked.verdicts] == list(CANDIDATES)
    assert picked.searches == ()
    made = open_bundle(tmp_path / "out")
    assert picked.bundle is not None
    assert made.manifest == picked.bundle.manifest
    assert made.manifest.recipe == recipe
    assert made.manifest.quality is not None
    assert made.manifest.quality.items == 400
    assert all(check.passed for check in replay_golden(made))
    assert list(temporary.iterdir()) == []
    assert {r.weight for r in picked.records if r.form == "float32"} == {"w_gate"}


def test_nothing_is_written_where_nothing_holds(
    text_bundle: Path, tmp_path: Path, temporary: Path, clock: Plant
) -> None:
    clock(dict.fromkeys(CANDIDATES, 0.9))
    picked = autotune(text_bundle, tmp_path / "out", ITEMS, "speed", QUICK)
    assert (picked.bundle, picked.chosen) == (None, None)
    assert {r.rule for j in picked.verdicts for r in j.refusals} == {"speed"}
    assert all(len(j.refusals) == 1 for j in picked.verdicts)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["temporary"]
    assert list(temporary.iterdir()) == []


def test_what_cannot_be_quantized_is_said(tmp_path: Path) -> None:
    """A convolution of 64 values: too few to gain anything."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["xt", "kernel"], ["yt"], "conv", group=64),
        helper.make_node("Transpose", ["yt"], ["y"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["y", "one"], ["mean"], keepdims=0),
        helper.make_node("Add", ["h", "mean"], ["h_next"]),
    ]
    step = model_bytes(
        nodes,
        [info("x", ["B", "T", 64]), info("h", ["B", 64])],
        [info("y", ["B", "T", 64]), info("h_next", ["B", 64])],
        {"kernel": drawn(64, 1, 1, seed=1), "one": np.array([1])},
    )
    bundle = written(tmp_path / "small", step, features_contract(NAMED), GOLDEN_ROWS)
    picked = autotune(bundle, tmp_path / "out", ROWS, "speed", QUICK)
    assert picked.chosen is None
    assert [[r.rule for r in j.refusals] for j in picked.verdicts] == [["unchanged"]] * len(
        CANDIDATES
    )
    assert {record.reason for record in picked.records} == {
        "Conv holds fewer than 1,024 values: too few to gain anything"
    }
    assert not (tmp_path / "out").exists()


def error_of(source: Path, quantized: Path) -> float:
    """The worst error of a recipe, measured as the picker measures it."""
    found = horizon_report(source, quantized, ROWS, QUICK.items, QUICK.settings)
    return next(g.value or 0.0 for g in found.gates if g.name == "error")


@pytest.mark.usefixtures("two_recipes")
def test_the_worst_weights_are_held_wider_until_the_budget_holds(
    feature_bundle: Path, tmp_path: Path, clock: Plant
) -> None:
    """A budget halfway between the error of 4-bit blocks and that of 8-bit blocks."""
    clock(ALL_FASTER)
    for name in ("int4-weights", "int8-weights"):
        quantize_bundle(feature_bundle, tmp_path / name, name)
    four, eight = (error_of(feature_bundle, tmp_path / f"int{n}-weights") for n in (4, 8))
    assert 0 < 2 * eight < four
    most = (four + eight) / 2
    trial = Trial(items=QUICK.items, budget=Budget(relative_error=most))
    picked = autotune(feature_bundle, tmp_path / "out", ROWS, "size", trial)
    (search,) = [s for s in picked.searches if s.recipe == "int4-weights"]
    assert search.widened is not None
    assert chosen(picked) == f"int4-weights, {search.widened} wider"
    # the ranking is of every quantized weight, the worst first
    harmed = [harm.divergence for harm in search.sensitivities]
    assert harmed == sorted(harmed, reverse=True)
    assert [harm.weight for harm in search.sensitivities] == ["w_mid", "w_out", "w_in"]
    # the least number of the worst that was seen to hold, there and elsewhere: one less did not
    attempts = {(a.widened, a.elsewhere): a for a in search.attempts}
    assert attempts[search.widened, False].holds
    assert attempts[search.widened, True].holds
    assert search.widened == 1 or not all(
        a.holds for a in search.attempts if a.widened == search.widened - 1
    )
    forms = {record.weight: record.form for record in picked.records}
    for place, harm in enumerate(search.sensitivities):
        assert forms[harm.weight] == (harm.wider if place < search.widened else harm.form)
    assert 0 < error_of(feature_bundle, tmp_path / "out") <= most


def test_a_mix_that_nothing_needs_is_not_searched(
    feature_bundle: Path, tmp_path: Path, clock: Plant
) -> None:
    clock(ALL_FASTER)
    for name in ("int4-weights", "int8-weights"):
        quantize_bundle(feature_bundle, tmp_path / name, name)
    most = error_of(feature_bundle, tmp_path / "int4-weights") / 2
    trial = Trial(items=QUICK.items, budget=Budget(relative_error=most))
    picked = autotune(feature_bundle, tmp_path / "out", ROWS, "speed", trial)
    assert [j.breaks_only_budget for j in picked.verdicts] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
    assert chosen(picked) == "int8-dynamic, non-causal"  # faster than 4 bits could be
    assert picked.searches == ()


@pytest.mark.usefixtures("two_recipes")
def test_equal_data_rank_and_mix_alike(feature_bundle: Path, tmp_path: Path, clock: Plant) -> None:
    clock({"int8-weights": 0.5, "int4-weights": 1.4})
    trial = Trial(items=200, budget=Budget(relative_error=1e-12))
    one, two = (
        autotune(feature_bundle, tmp_path / name, ROWS, "speed", trial) for name in ("one", "two")
    )
    assert one.searches == two.searches
    assert [(s.recipe, s.widened) for s in one.searches] == [("int4-weights", None)]  # too strict
    assert one.chosen is None
    assert [p for p in tmp_path.iterdir() if p.name in ("one", "two")] == []


# Wrong use, and interruption


def test_wrong_use_is_found_before_the_work(text_bundle: Path, tmp_path: Path) -> None:
    quantize_bundle(text_bundle, tmp_path / "q", "int8-rows")
    with pytest.raises(QuantizeError, match="is quantized already, by the recipe int8-rows"):
        autotune(tmp_path / "q", tmp_path / "out", ITEMS)
    with pytest.raises(BundleExistsError):
        autotune(text_bundle, tmp_path / "q", ITEMS)
    with pytest.raises(StepError, match="at least 2 items"):
        autotune(text_bundle, tmp_path / "out", ITEMS[:1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["q"]


@pytest.mark.usefixtures("two_recipes")
@pytest.mark.parametrize("word", ["quantizing", "rollout", "round", "alone", "wider", "writing"])
def test_an_interruption_leaves_nothing(
    word: str, feature_bundle: Path, tmp_path: Path, temporary: Path, clock: Plant
) -> None:
    if word != "round":
        clock(ALL_FASTER)
    seen: list[float] = []

    def stop(what: str, share: float) -> None:
        assert 0 <= share <= 1
        seen.append(share)
        if word in what:
            raise KeyboardInterrupt

    most = 1e-12 if word in ("alone", "wider") else 1.0
    trial = Trial(items=300, rounds=2, slot_ms=1.0, budget=Budget(relative_error=most))
    with pytest.raises(KeyboardInterrupt):
        autotune(feature_bundle, tmp_path / "out", ROWS, "speed", trial, progress=stop)
    assert seen == sorted(seen)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["temporary"]
    assert list(temporary.iterdir()) == []
