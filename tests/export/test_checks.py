"""Laws of the checks of a step: each fault is refused by its own code, and mended it passes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from msgspec.structs import replace
from tests import honest, planted, planted_memory, signed
from tests.planted import FAULTS
from tests.signed import Core, Signed
from tests.steps import Tail

from dst.export import StepFaultError, export_bundle
from dst.export.checks.recurrence import check_recurrence
from dst.export.step import Step

Array = npt.NDArray[np.generic]
Sizes = tuple[int, ...]
CUTS: tuple[tuple[Tail, Sizes], ...] = (("exact", (1, 4)), ("refuse", (4,)), ("refuse", (4, 8)))
PLANTED = [(code, core) for code, cores in FAULTS.items() for core in cores]


def data_for(core: type[Core]) -> Array:
    source = np.random.default_rng(0)
    if core.tokens is not None:
        return source.integers(0, 6, 300)
    return source.normal(size=(300, signed.FEATURES)).astype(np.float32)


def fault_of(core: Core, t: Sizes, tail: Tail) -> str:
    """The code by which a step is refused, or "" where it passes."""
    if isinstance(core, planted.DropsStateInLongChunks):
        core.sizes = t
    try:
        check_recurrence(Signed(core, t, tail).eval(), data_for(type(core)))
    except StepFaultError as error:
        return error.code or "no code"
    return ""


def visible(core: type[Core], t: Sizes) -> bool:
    """A cut shows where there are two T; one module fails at short chunks alone."""
    if core in FAULTS["cut-matters"]:
        return len(t) > 1
    return core is not planted.FailsAtOne or min(t) < 4


@pytest.mark.parametrize(("code", "core"), PLANTED, ids=[c.__name__ for _, c in PLANTED])
def test_a_fault_is_refused_by_its_own_code_under_every_tail(code: str, core: type[Core]) -> None:
    for tail, t in CUTS:
        if visible(core, t):
            assert fault_of(core(), t, tail) == code, (tail, t)


@pytest.mark.parametrize(("code", "core"), PLANTED, ids=[c.__name__ for _, c in PLANTED])
def test_the_same_step_mended_passes(code: str, core: type[Core]) -> None:
    for tail, t in CUTS[:2]:
        assert fault_of(core(mended=True), t, tail) == "", (tail, t)


@pytest.mark.parametrize("core", honest.HONEST, ids=lambda core: core.__name__)
def test_a_step_that_only_looks_faulty_passes(core: type[Core]) -> None:
    for tail, t in (CUTS[0], ("refuse", (3, 4))):
        assert fault_of(core(), t, tail) == "", (tail, t)


def test_outputs_of_a_whole_chunk_may_differ_with_its_length_where_the_tail_allows_it() -> None:
    step = Signed(honest.PooledAnswer(), (4, 8), "refuse").eval()
    (finding,) = check_recurrence(step, data_for(Core))
    assert finding.code == "cut-matters"
    assert "`y` has one value for a chunk" in finding.text
    assert fault_of(honest.PooledAnswer(), (1, 4), "exact") == "cut-matters"


@pytest.mark.parametrize(("tail", "t"), [("exact", (1, 4)), ("refuse", (4,))])
def test_a_step_without_state_that_looks_back_passes(tail: Tail, t: Sizes) -> None:
    step = Signed(honest.Lookback(), t, tail, lookback=2).eval()
    assert check_recurrence(step, data_for(Core)) == ()


def test_items_of_the_look_ahead_may_move_answers_and_none_beyond() -> None:
    for ahead, code in ((2, ""), (1, "not-causal")):
        step = Signed(honest.Ahead(ahead), (4, 8), "refuse").eval()
        chunk = replace(step.contract.chunk, lookahead=ahead)
        step.contract = replace(step.contract, chunk=chunk)
        found = ""
        try:
            check_recurrence(step, data_for(Core))
        except StepFaultError as error:
            found = error.code
        assert found == code


def test_a_model_that_is_labelled_non_causal_may_see_its_whole_chunk() -> None:
    step = Signed(planted.Bidirectional(), (4,), "refuse").eval()
    step.contract = replace(step.contract, chunk=replace(step.contract.chunk, causal=False))
    assert check_recurrence(step, data_for(Core)) == ()


def test_rows_may_mix_where_one_stream_runs_at_a_time() -> None:
    step = Signed(planted.BatchMean(), (4,), "refuse").eval()
    with pytest.raises(StepFaultError, match="rows of a batch are mixed"):
        check_recurrence(step, data_for(Core))
    seen: list[int] = []
    one = Watched(planted.StateOfFirst(), (4,), "refuse", seen)
    assert check_recurrence(one.eval(), data_for(Core), batches=(1,)) == ()
    assert {size for size in seen if size < 0} == {-1}


class Watched(Signed):
    """Notes each T, and each B as a negative number."""

    def __init__(self, core: Core, t: Sizes, tail: Tail, seen: list[int]) -> None:
        super().__init__(core, t, tail)
        self.seen = seen

    def forward(
        self, chunk: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        self.seen += [chunk.shape[1], -chunk.shape[0]]
        return super().forward(chunk, state)


@pytest.mark.parametrize("t", [(16,), (5, 16), (1, 2, 3)])
def test_no_check_runs_a_size_that_the_contract_does_not_allow(t: Sizes) -> None:
    seen: list[int] = []
    tail: Tail = "exact" if 1 in t else "refuse"
    check_recurrence(Watched(Core(), t, tail, seen).eval(), data_for(Core))
    assert {size for size in seen if size > 0} == set(t)


def test_a_message_says_what_was_seen_where_and_the_cure() -> None:
    def said(core: Core) -> str:
        step = Signed(core, (1, 4)).eval()
        with pytest.raises(StepFaultError) as caught:
            check_recurrence(step, data_for(type(core)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "`h` never changes" in said(planted_memory.ReturnsGiven())
    assert "state `c` is overwritten without being read" in said(planted_memory.DropsCell())
    assert "attribute `core.memory` changed during a call" in said(planted_memory.OnAttribute())
    assert "global `CACHE` changed" in said(planted_memory.InGlobal())
    assert "(`native_dropout`" in said(planted_memory.Dropout()) or "bernoulli" in said(
        planted_memory.Dropout()
    )
    assert "[1, 4, 4] -> [1, 8, 4] -> [1, 12, 4] at T = 4, B = 1" in said(planted.GrowingKeys())
    assert "planted.py:" in said(planted.IfMean())
    assert "x.mean() > 0" in said(planted.IfMean())
    assert "T = 1 and of T = 4" in said(planted.PositionsRestart())
    failed = said(planted.FailsAtOne())
    assert "ValueError: too few items at T = 1, B = 1" in failed
    assert "`x` float32 [1, 1, 3], state `h` float32 [1, 4]" in failed


def test_weights_memories_and_random_numbers_are_left_as_they_were() -> None:
    step: Step = Signed(honest.ClosedGate(), (1, 4)).eval()
    before = {name: value.clone() for name, value in step.state_dict().items()}
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = (torch.rand(1), np.random.rand(), random.random())
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    assert check_recurrence(step, data_for(Core))  # it tries other weights, and says so
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items())


@pytest.mark.parametrize("tail", ["exact", "refuse"])
def test_a_faulty_step_writes_no_bundle(tail: Tail, tmp_path: Path) -> None:
    t = (1, 4) if tail == "exact" else (4,)
    for core in (planted_memory.StartsFromZeros(), planted_memory.OnBuffer(), planted.ChunkNorm()):
        with pytest.raises(StepFaultError) as caught:
            export_bundle(Signed(core, t, tail), tmp_path / "bundle", data=data_for(Core))
        assert caught.value.code
    assert list(tmp_path.iterdir()) == []
