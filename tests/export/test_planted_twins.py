"""Every faulty module is refused by its name, and its mended twin gives a bundle.

The pairs were written from the public documents, without a look at the checks. Six of them run by
default, the rest under the marker `twins`. Where the exporter and the author disagree, the test is
marked as expected to fail and says how.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.planted_twins import PAIRS, SAME, Pair
from torch import Tensor
from torch.utils import _pytree as pytree

from dst.export import ExportError, export_bundle

DEFAULT = {
    "UpperGruForgottenInList",
    "TokenShiftFromZeros",
    "FeedbackByHook",
    "LastHiddenReshaped",
    "ShiftByRoll",
    "SinglesTakeAnotherPath",
}

DISAGREE = {
    "MemoryReadAsWholeNumber": "exported: states that no stream reaches do move the answers",
}


def cases(faulty: bool) -> list[Any]:
    """Give the pairs with their marks."""
    params, seen = [], set[str]()
    for pair in PAIRS:
        name = pair.faulty.__name__ if faulty else pair.mended.__name__
        if name in seen:
            continue
        seen.add(name)
        marks = [] if pair.name in DEFAULT else [pytest.mark.twins]
        if faulty and pair.name in DISAGREE:
            marks.append(pytest.mark.xfail(strict=True, reason=DISAGREE[pair.name]))
        params.append(pytest.param(pair, id=f"{pair.kind}-{name}", marks=marks))
    return params


def twin_state(pair: Pair) -> Any:
    return pair.state if pair.mended_state is SAME else pair.mended_state


def export(pair: Pair, faulty: bool, path: Path, tail: Literal["exact", "refuse"]) -> None:
    """Export one side of a pair, with certificates over 40 steps."""
    torch.manual_seed(3)
    random.seed(3)
    module = pair.faulty() if faulty else pair.mended()
    state = copy.deepcopy(pair.state if faulty else twin_state(pair))
    export_bundle(
        module,
        path,
        chunk=pair.chunk,
        state=state,
        t=pair.t,
        tail=tail,
        certify_steps=40,
        **pair.options,
    )


@pytest.mark.parametrize("tail", ["exact", "refuse"])
@pytest.mark.parametrize("pair", cases(faulty=True))
def test_faulty_module_is_refused_by_its_name(
    pair: Pair, tail: Literal["exact", "refuse"], tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as caught:
        export(pair, True, tmp_path / "bundle", tail)
    assert caught.value.code == pair.kind
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tail", ["exact", "refuse"])
@pytest.mark.parametrize("pair", cases(faulty=False))
def test_mended_twin_gives_a_bundle(
    pair: Pair, tail: Literal["exact", "refuse"], tmp_path: Path
) -> None:
    export(pair, False, tmp_path / "bundle", tail)
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def run(module: torch.nn.Module, items: Tensor, axis: int, t: int, state: Any) -> list[Tensor]:
    """Carry the state over all items, T at a time; return the last answer and the state."""
    for chunk in items.split(t, axis):
        answer, state = module(chunk) if state is None else module(chunk, state)
    flat = [
        leaf.narrow(axis, t - 1, 1) if leaf.dim() > axis and leaf.shape[axis] == t else leaf
        for leaf in pytree.tree_leaves(answer)
    ]
    return flat + list(pytree.tree_leaves(state))


@pytest.mark.parametrize(
    "pair", [pytest.param(case.values[0], id=case.id) for case in cases(faulty=False)]
)
def test_twin_in_torch_does_not_care_how_its_input_is_cut(pair: Pair) -> None:
    torch.manual_seed(3)
    module = pair.mended().eval()
    whole = max(pair.t)
    axis = list(pair.chunk.shape).index(whole)
    items = torch.cat([pair.chunk.roll(i, axis) for i in range(6)], axis)
    with torch.no_grad():
        one, many = (
            run(module, items, axis, t, copy.deepcopy(twin_state(pair))) for t in (1, whole)
        )
    assert len(one) == len(many)
    for a, b in zip(one, many, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
