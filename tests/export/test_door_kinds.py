"""Every kind of torch module becomes a bundle that does what the module does."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.kinds import KINDS, Kind, example
from torch import Tensor, nn

from dst.export import export_bundle
from dst.runtime import Session, Stream, open_bundle, relative_error, replay_golden
from dst.runtime.bundle.manifest import Contract
from dst.runtime.pool import StreamPool

STEPS = 200
BOUND = 1e-5
PORTABLE = ("lstm", "rnn", "conv", "nested")
"""Kinds whose portable graphs are written too; it takes seconds each."""


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_runs_as_torch_does(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    torch.manual_seed(0)
    module = kind.make()
    path = tmp_path / "bundle"
    manifest = export_bundle(
        module,
        path,
        chunk=example(kind),
        state=kind.state,
        t=kind.t,
        certify_steps=20,
        portable_t=None if name in PORTABLE else (),
        **kind.more,  # type: ignore[arg-type]
    )
    contract = manifest.contract
    names = [o.name for o in contract.outputs] + [s.input for s in contract.state]
    assert contract.chunk.shape == tuple(kind.shape)
    assert names == kind.names.split()
    assert contract.chunk.tail == kind.tail
    one_graph = any(g.allowed_t == contract.chunk.allowed_t for g in manifest.graphs)
    assert one_graph == kind.free
    assert any(not g.batch for g in manifest.graphs) == kind.batch
    assert all(check.passed for check in replay_golden(open_bundle(path)))
    for t in contract.chunk.allowed_t:
        _drive(kind, module, path, contract, t, tmp_path / "state")
    if kind.batch and kind.free:
        _pool(path, contract)


def _drive(
    kind: Kind, module: nn.Module, path: Path, contract: Contract, t: int, saved: Path
) -> None:
    """Run a stream beside the module, save it half way and go on with what was saved."""
    chunks = _chunks(kind, contract, t)
    back = contract.chunk.lookback
    stream = Session.open(path, chunk_sizes=[t]).stream()
    expected = _torch_run(kind, module, contract, chunks)
    found = []
    for number, chunk in enumerate(chunks):
        fresh = np.take(chunk, range(back, back + t), contract.chunk.time_axis)
        found.append(stream.step(np.ascontiguousarray(fresh)))
        if number == STEPS // 2:
            stream.save(saved)
    for output in contract.outputs:
        both = [[step[output.name] for step in run] for run in (found, expected)]
        assert relative_error(np.stack(both[0]), np.stack(both[1])) <= BOUND, (t, output.name)
    later = Stream.load(Session.open(path, chunk_sizes=[t]), saved)
    for number in range(STEPS // 2 + 1, STEPS):
        fresh = np.take(chunks[number], range(back, back + t), contract.chunk.time_axis)
        for key, value in later.step(np.ascontiguousarray(fresh)).items():
            assert np.array_equal(value, found[number][key]), (t, key)
    for key, value in later.state.items():
        assert np.array_equal(value, stream.state[key])


def _chunks(kind: Kind, contract: Contract, t: int) -> list[np.ndarray]:
    """Cut one random stream into chunks with their lookback, in the contract's layout."""
    chunk = contract.chunk
    source = np.random.default_rng(2)
    item = [size for size in chunk.shape if not isinstance(size, str)]
    shape = (STEPS * t, *item)
    items = (
        source.integers(11, size=shape) if kind.dtype == torch.int64 else source.normal(size=shape)
    ).astype(chunk.dtype)
    items = np.concatenate([np.zeros((chunk.lookback, *item), chunk.dtype), items])
    found = []
    for number in range(STEPS):
        rows = items[number * t : number * t + t + chunk.lookback]
        whole = np.expand_dims(np.moveaxis(rows, 0, chunk.time_axis - (chunk.batch_axis == 0)), 0)
        found.append(np.moveaxis(whole, 0, chunk.batch_axis))
    return [np.ascontiguousarray(chunk) for chunk in found]


def _torch_run(
    kind: Kind, module: nn.Module, contract: Contract, chunks: list[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Call the user's module itself, in its own layout, with its own state."""
    own = copy.deepcopy(module).eval()
    state = _one_row(kind)
    answers = []
    cell = isinstance(own, nn.RNNCellBase)
    rank = len(kind.chunk)
    for chunk in chunks:
        given = torch.from_numpy(chunk.copy())
        if rank < chunk.ndim:  # a cell has no time axis, some have no batch axis
            given = given.squeeze(1 if contract.chunk.allowed_t == (1,) else 0)
        with torch.no_grad():
            if kind.more:
                y = own(given)
            elif cell:
                state = own(given, state)
                y = state[0] if isinstance(state, tuple) else state
            else:
                y, state = own(given, state)
        flat = _flat(y)
        if kind.more:
            flat = [tensor[:, -(chunk.shape[1] - 2) :] for tensor in flat]
        answers.append(
            {
                output.name: tensor.numpy()
                .reshape(
                    [
                        {
                            "B": 1,
                            "T": chunk.shape[contract.chunk.time_axis] - contract.chunk.lookback,
                        }[d]
                        if isinstance(d, str)
                        else d
                        for d in output.shape
                    ]
                )
                .copy()
                for output, tensor in zip(contract.outputs, flat, strict=True)
            }
        )
    return answers


def _one_row(kind: Kind) -> object:
    """The state at the start, for one stream."""
    if kind.chunk[0] == 2:
        rows = kind.state if isinstance(kind.state, list) else [kind.state]
        cut = [r[:, :1] if r.dim() == 3 else r[:1] for r in rows if isinstance(r, Tensor)]
        return tuple(cut) if isinstance(kind.state, list) else cut[0]
    return copy.deepcopy(kind.state)


def _flat(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    held = value.values() if isinstance(value, dict) else value
    return list(held)  # type: ignore[call-overload, no-any-return]


def _pool(path: Path, contract: Contract) -> None:
    """Three slots of a pool answer as three streams."""
    session = Session.open(path)
    pool = StreamPool(session, 3)
    streams = [session.stream() for _ in range(3)]
    t = contract.chunk.nominal_t
    for number in range(3):
        items = _items(contract, 3 * t, number)
        for slot, answer in pool.advance({s: items[s * t : (s + 1) * t] for s in range(3)}).items():
            alone = streams[slot].advance(items[slot * t : (slot + 1) * t])
            for key, value in alone.items():
                assert relative_error(answer[key], value) <= BOUND, (slot, key)


def _items(contract: Contract, count: int, seed: int) -> np.ndarray:
    chunk = contract.chunk
    shape = (count, *(size for size in chunk.shape if not isinstance(size, str)))
    source = np.random.default_rng(seed)
    drawn = source.integers(11, size=shape) if chunk.dtype == "int64" else source.normal(size=shape)
    return drawn.astype(chunk.dtype)
