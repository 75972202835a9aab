"""What is found out about a torch module, and what is said where it cannot be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.export.kinds import KINDS, Branch, Memory, Valid, example, zeros
from tests.raising import Fault, refused
from torch import Tensor, nn

from dst.export import ExportError, export_bundle
from dst.export.errors import StepFaultError
from dst.export.infer.axes import Known
from dst.export.infer.infer import infer
from dst.export.infer.inferred import Inferred
from dst.runtime import Session
from dst.runtime.bundle.manifest import Features, Fill, Stored, Tokens, Zeros

CHUNK = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0))


class Function(nn.Module):
    """A module that does what a function does."""

    def __init__(self, function: Callable[[Tensor, Any], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, state: object) -> object:
        return self.function(x, state)


class Optional(Function):
    """The same, where the state may be left out."""

    def forward(self, x: Tensor, state: object = None) -> object:
        return self.function(x, state)


def lstm() -> nn.LSTM:
    return nn.LSTM(5, 8, batch_first=True)


def mean(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """A right step: what comes out is x beside the mean before it."""
    return x + h[:, None], h * 0.9 + x.mean(1) * 0.1


def found(module: object, chunk: object = CHUNK, state: object = None, **known: object) -> Inferred:
    return infer(module, chunk, state, Known(**known))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", KINDS)
def test_the_contract_of_every_kind_is_found(name: str) -> None:
    kind = KINDS[name]
    torch.manual_seed(0)
    step = infer(kind.make(), example(kind), kind.state, Known(t=kind.t, **kind.more))  # type: ignore[arg-type]
    contract = step.contract
    names = [o.name for o in contract.outputs] + [s.input for s in contract.state]
    assert contract.chunk.shape == tuple(kind.shape)
    assert names == kind.names.split()
    assert step.any_batch == kind.batch
    assert contract.chunk.tail == kind.tail


@settings(max_examples=40, deadline=None)
@given(
    cell=st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
    layers=st.integers(1, 3),
    features=st.integers(1, 4),
    hidden=st.integers(1, 4),
    batch_first=st.booleans(),
    projected=st.booleans(),
    given_state=st.booleans(),
    rows=st.integers(1, 3),
    t=st.integers(1, 4),
)
def test_axes_are_found_whatever_the_sizes(
    cell: Callable[..., nn.RNNBase],
    layers: int,
    features: int,
    hidden: int,
    batch_first: bool,
    projected: bool,
    given_state: bool,
    rows: int,
    t: int,
) -> None:
    width = max(hidden - 1, 1) if projected and cell is nn.LSTM and hidden > 1 else 0
    more = {"proj_size": width} if width else {}
    module = cell(features, hidden, layers, batch_first=batch_first, **more)
    shape = (rows, t, features) if batch_first else (t, rows, features)
    state: object = None
    if given_state:
        h, c = zeros(layers, rows, width or hidden), zeros(layers, rows, hidden)
        state = (h, c) if cell is nn.LSTM else h
    step = found(module, torch.randn(shape), state, t=(t,))
    assert step.contract.chunk.shape == (
        ("B", "T", features) if batch_first else ("T", "B", features)
    )
    widths = [width or hidden, hidden] if cell is nn.LSTM else [hidden]
    assert [s.shape for s in step.contract.state] == [(layers, "B", w) for w in widths]
    assert step.any_batch


def test_sizes_by_default_are_those_that_give_the_same() -> None:
    assert found(lstm()).contract.chunk.allowed_t == (1, 6)
    assert found(Function(mean), state=zeros(1, 5)).contract.chunk.allowed_t == (6,)
    assert found(nn.LSTMCell(5, 8), CHUNK[:, 0]).contract.chunk.allowed_t == (1,)


def test_a_state_starts_where_the_example_does() -> None:
    learned = torch.tensor([[1.0, -1.0, 0.5, 2.0, 3.0]])
    starts = (zeros(1, 5), zeros(1, 5) - 1e30, learned)

    def step(x: Tensor, state: tuple[Tensor, ...]) -> object:
        return x + sum(state)[:, None], tuple(s * 0.5 + x[:, -1] for s in state)  # type: ignore[index]

    contract = found(Function(step), state=starts, t=(6,)).contract
    assert [s.init for s in contract.state] == [
        Zeros(),
        Fill(value=float(np.float32(-1e30))),
        Stored(tensor="state.2"),
    ]
    rows = infer(
        Function(step), torch.randn(3, 6, 5), tuple(s.expand(3, 5) for s in starts), Known()
    )
    assert torch.equal(rows.initial_state(2)["state.2"], learned.expand(2, 5))


def test_ids_are_told_from_features() -> None:
    kind = KINDS["tokens"]
    step = infer(kind.make(), example(kind), kind.state, Known(t=(1, 6)))
    assert step.contract.chunk.content == Tokens(vocabulary=11)
    assert step.contract.outputs[0].meaning == "logits"
    assert isinstance(found(lstm()).contract.chunk.content, Features)


def test_the_module_comes_back_as_it_was() -> None:
    module = KINDS["lstm-dropout"].make()
    module.train()
    before = copy.deepcopy(module.state_dict())
    state = zeros(1, 5)
    found(module)
    found(KINDS["in-place"].make(), state=state, t=(6,))
    assert module.training
    assert all(part.training for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(state, zeros(1, 5))
    assert "forward" not in vars(module)


def test_a_state_may_be_a_number_or_lie_crosswise() -> None:
    step = found(KINDS["clock"].make(), state=0, t=(1, 6))
    assert step.contract.state[0].dtype == "int64"
    crosswise = zeros(8, 2, 1).permute(2, 1, 0)
    given = found(nn.LSTM(5, 8), torch.randn(6, 2, 5), (crosswise, crosswise), t=(6,))
    assert given.contract.state[1].shape == (1, "B", 8)


WRONG: dict[str, tuple[Callable[[], object], Fault, str]] = {
    "a class": (lambda: found(nn.LSTM), Fault(ExportError, "export"), "give an instance"),
    "no module": (lambda: found(mean), Fault(ExportError, "export"), "expected a torch.nn.Module"),
    "no chunk": (lambda: found(lstm(), None), Fault(ExportError, "export"), "chunk is nothing"),
    "a chunk without batch": (
        lambda: found(lstm(), CHUNK[0], (zeros(1, 1, 8), zeros(1, 1, 8))),
        Fault(StepFaultError, "step-failed"),
        r"LSTM failed on chunk float32 \[6, 5\] and state .*unbatched",
    ),
    "a state of other shape": (
        lambda: found(lstm(), state=(zeros(1, 8), zeros(1, 8))),
        Fault(StepFaultError, "step-failed"),
        r"state 0 float32 \[1, 8\].*should also be 3-D",
    ),
    "features of another number": (
        lambda: found(lstm(), CHUNK[..., :4]),
        Fault(StepFaultError, "step-failed"),
        "Expected 5, got 4",
    ),
    "three results": (
        lambda: found(Function(lambda x, h: (x, h, h)), state=zeros(1, 5)),
        Fault(ExportError, "step-result"),
        r"returned 3 things .* `return outputs, \(h, c\)`",
    ),
    "no state returned": (
        lambda: found(Function(lambda x, h: x), state=zeros(1, 5)),
        Fault(ExportError, "step-result"),
        "`return outputs, state`",
    ),
    "another nesting": (
        lambda: found(Function(lambda x, h: (x, {"b": h["a"]})), state={"a": zeros(1, 5)}),
        Fault(ExportError, "step-result"),
        r"a state of 1 tensor \(a\) and returned one of 1 tensor \(b\)",
    ),
    "None in the state": (
        lambda: found(Function(lambda x, h: (x, {"a": x[:, 0]})), state={"a": None}),
        Fault(ExportError, "step-result"),
        "in the place of None",
    ),
    "complex numbers": (
        lambda: found(lstm(), CHUNK.to(torch.complex64)),
        Fault(ExportError, "export"),
        "view_as_real",
    ),
    "a bfloat16 module": (
        lambda: found(lstm().bfloat16()),
        Fault(ExportError, "export"),
        r"module.float\(\)",
    ),
    "a half chunk": (
        lambda: found(lstm(), CHUNK.half()),
        Fault(ExportError, "export"),
        r"module.float\(\)",
    ),
    "a growing state": (
        lambda: found(Function(lambda x, h: (x, torch.cat([h, x], 1))), state=zeros(1, 2, 5)),
        Fault(StepFaultError, "state-grows"),
        r"grows: \[1, 2, 5\], \[1, 8, 5\], \[1, 14, 5\]",
    ),
    "a state that is widened": (
        lambda: found(Function(lambda x, h: (x, h + x[:, 0])), state=zeros(5)),
        Fault(ExportError, "state-shape"),
        "give it in the shape in which it comes back",
    ),
    "a state of another dtype": (
        lambda: found(Function(lambda x, h: (x, h.double())), state=zeros(1, 5)),
        Fault(ExportError, "state-dtype"),
        "give it in the dtype in which it comes back",
    ),
    "an infinite start": (
        lambda: found(Function(mean), state=zeros(1, 5) - torch.inf),
        Fault(ExportError, "export"),
        "such as -1e30",
    ),
    "rows that start elsewhere": (
        lambda: found(Function(mean), torch.randn(2, 6, 5), torch.randn(2, 5)),
        Fault(ExportError, "export"),
        "the rows of the example differ",
    ),
    "a start of its own": (
        lambda: found(Optional(lambda x, h: mean(x, torch.ones(len(x), 5) if h is None else h))),
        Fault(ExportError, "state-open"),
        "starts from another state than zeros",
    ),
    "ids of an unknown number": (
        lambda: found(Function(lambda x, h: (x.float(), h)), torch.ones(1, 6).long(), zeros(1, 5)),
        Fault(ExportError, "vocabulary-open"),
        "vocabulary=256",
    ),
    "an axis too many": (
        lambda: found(lstm(), batch_axis=7),
        Fault(ExportError, "export"),
        "axes 0 to 2",
    ),
    "axes that nothing tells apart": (
        lambda: found(nn.ReLU(), torch.randn(4, 4, 5)),
        Fault(ExportError, "axes-open"),
        "batch_axis=0, time_axis=1",
    ),
    "half of the rows": (
        lambda: found(
            Function(lambda x, h: (x[:, ::2], mean(x, h)[1])), state=zeros(1, 5), t=(4, 6)
        ),
        Fault(ExportError, "output-length"),
        "expected one row for each item",
    ),
    "a T that does not run": (
        lambda: found(
            Function(lambda x, h: (x.reshape(len(x), -1, 10), mean(x, h)[1])),
            state=zeros(1, 5),
            t=(1, 6),
        ),
        Fault(StepFaultError, "step-failed"),
        r"T = 1, 6: .*failed on chunk float32 \[1, 1, 5\]",
    ),
    "no T": (lambda: found(lstm(), t=()), Fault(ExportError, "export"), "t is empty"),
    "a T of 0": (lambda: found(lstm(), t=(0, 4)), Fault(ExportError, "export"), r"t is \[0, 4\]"),
    "a chunk of lookback alone": (
        lambda: found(Valid(), torch.randn(1, 8, 3), lookback=8),
        Fault(ExportError, "export"),
        r"expected lookback \+ T \+ lookahead items",
    ),
    "a state that is none": (
        lambda: found(lstm(), state="abc"),
        Fault(ExportError, "step-contract"),
        "state is str",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str) -> None:
    wrong, fault, message = WRONG[name]
    with refused(*fault, match=message) as raised:
        wrong()
    assert "\n" not in str(raised.value)


def test_a_question_is_answered_by_the_argument_it_names() -> None:
    step = found(nn.ReLU(), torch.randn(4, 4, 5), batch_axis=0, time_axis=1)
    assert step.contract.chunk.shape == ("B", "T", 5)
    ones = infer(
        Optional(lambda x, h: mean(x, torch.ones(len(x), 5) if h is None else h)),
        CHUNK,
        torch.ones(1, 5),
        Known(),
    )
    assert ones.contract.state[0].init == Fill(value=1.0)


def test_data_must_fit_the_chunk(tmp_path: Path) -> None:
    for data, message in (
        (np.zeros((0, 5)), "data is empty"),
        (np.zeros((1, 9, 5)), r"shape \[1, 9, 5\]; expected one row for each item, \[n, 5\]"),
        (np.full((9, 5), np.nan), "NaN"),
    ):
        with pytest.raises(ExportError, match=message):
            export_bundle(lstm(), tmp_path / "b", chunk=CHUNK, t=(1, 6), data=data)
    assert not list(tmp_path.iterdir())


def test_a_fault_of_the_module_writes_nothing(tmp_path: Path) -> None:
    forgets = Function(lambda x, h: (x + 0.0 * h[:, None], h * 0.9 + x.mean(1)))
    with pytest.raises(StepFaultError) as raised:
        export_bundle(forgets, tmp_path / "b", chunk=CHUNK, state=zeros(1, 5), t=(6,))
    assert raised.value.code == "state-never-read"
    assert not list(tmp_path.iterdir())


def test_what_is_done_is_told_and_stands_in_the_manifest(tmp_path: Path) -> None:
    told: list[str] = []
    kind = KINDS["loop"]
    manifest = export_bundle(
        kind.make(),
        tmp_path / "loop",
        chunk=example(kind),
        state=kind.state,
        t=(1, 3),
        certify_steps=10,
        portable_t=(),
        tell=told.append,
    )
    assert any("one graph for each T = 1, 3" in line for line in told)
    assert {g.allowed_t for g in manifest.graphs} == {(1,), (3,)}
    assert manifest.name == "loop"
    assert {c.data for c in manifest.certificates} == {"random items: no data was given"}
    signed = infer(Branch(), CHUNK, zeros(1, 1, 8), Known())
    with pytest.raises(ExportError, match="neither chunk nor state"):
        export_bundle(signed, tmp_path / "x", chunk=CHUNK)


def test_a_dataclass_need_not_be_registered() -> None:
    state = Memory(zeros(1, 5), [zeros(1, 5)])
    step = found(KINDS["dataclass"].make(), state=state, t=(6,))
    assert [s.input for s in step.contract.state] == ["slow", "fast.0"]
    assert torch.equal(state.slow, zeros(1, 5))


def test_items_before_and_behind_are_cut_from_the_answer() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.avg_pool1d(x.mT, 3, 1, padding=1).mT

    step = found(Same(), torch.randn(1, 8, 5), lookback=1, lookahead=1, t=(6,))
    chunk = step.contract.chunk
    assert (chunk.lookback, chunk.lookahead, chunk.tail) == (1, 1, "refuse")
    x = torch.randn(1, 8, 5)
    answer = step(x, {})[0]["output"]
    assert torch.allclose(answer, (x[:, :-2] + x[:, 1:-1] + x[:, 2:]) / 3, atol=1e-6)


def test_a_single_t_above_five_keeps_its_size(tmp_path: Path) -> None:
    export_bundle(lstm(), tmp_path / "b", chunk=CHUNK, t=(9,), certify_steps=10, portable_t=())
    session = Session.open(tmp_path / "b")
    assert session.chunk_sizes == (9,)
    assert session.stream().step(np.zeros((1, 9, 5), np.float32))["output"].shape == (1, 9, 8)
