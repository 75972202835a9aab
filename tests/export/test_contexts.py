"""Context tables against a loop that keeps one slot after another, and through export."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dst.export import export_bundle
from dst.export.model import Network
from dst.export.model.config import Config, Tokens
from dst.export.model.contexts import CONTEXTS, MOST, RECENT, _contexts, look, tables_state
from dst.export.model.heads import Categorical
from dst.quantize import quantize_bundle
from dst.runtime import Session

BITS = 5
"""So few slots that contexts meet in them all the time."""
LOG = b"10:02:11 worker-3 took job 118 in 12 ms\n10:02:14 worker-1 took job 119 in 9 ms\n" * 4


def by_loop(text: bytes) -> np.ndarray:
    """What each item sees in each context, `(last, before, run, hit)`, as a program would keep it.

    Slots and checks are those of the module: only what is kept in them is judged here.
    """
    items = torch.tensor([[0] * RECENT + list(text)])
    slot, check, _ = _contexts(items, torch.zeros(1, 3, dtype=torch.int64), 1 << BITS)
    slots, checks = slot[0].tolist(), check[0].tolist()
    tables = [dict[int, tuple[int, int, int, int]]() for _ in range(CONTEXTS)]
    found = []
    for i, symbol in enumerate(text):
        row = []
        for c in range(CONTEXTS):
            known, last, before, run = tables[c].get(slots[c][i], (-1, 0, 0, 0))
            if known != checks[c][i]:
                hit, kept = 0, (checks[c][i], symbol, symbol, 1)
            elif last == symbol:
                hit, kept = 1, (known, last, before, min(run + 1, MOST))
            else:
                hit, kept = 2, (known, symbol, last, 1)
            tables[c][slots[c][i]] = kept
            known, last, before, run = tables[c].get(slots[c][i + 1], (-1, 0, 0, 0))
            seen = (last, before, run) if known == checks[c][i + 1] else (0, 0, 0)
            row.append((*seen, hit))
        found.append(row)
    return np.array(found)


def in_cuts(
    text: bytes, cuts: list[int], bits: int = BITS
) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """What `look` gives for a text that comes in pieces."""
    items, state = torch.tensor([list(text)]), tables_state(1, bits)
    parts: list[torch.Tensor] = []
    start = 0
    while start < len(text):
        size = cuts[len(parts) % len(cuts)]
        seen, state = look(items[:, start : start + size], state)
        parts.append(torch.stack(list(seen), -1)[0])
        start += size
    return torch.cat(parts).numpy(), state


@settings(deadline=None, max_examples=40)
@given(
    text=st.one_of(
        st.binary(min_size=1, max_size=300),
        st.lists(st.sampled_from([*b"ab\n7 "]), min_size=1, max_size=300).map(bytes),
        st.integers(1, len(LOG)).map(lambda n: LOG[:n]),
    ),
    cuts=st.lists(st.integers(1, 130), min_size=1, max_size=5),
)
def test_any_cut_is_the_loop(text: bytes, cuts: list[int]) -> None:
    expected = by_loop(text)
    found, state = in_cuts(text, cuts)
    assert np.array_equal(found, expected)
    _, one_by_one = in_cuts(text, [1])
    assert all(torch.equal(state[name], one_by_one[name]) for name in state)


def test_a_phrase_is_known_from_its_second_time_on() -> None:
    seen, _ = in_cuts(b"GET /index.html 200\n" * 2, [64], 14)
    second = seen[25:39]  # behind the first letters of the second line, up to its newline
    longest = 6  # contexts of eight items; the longer ones reach back to the line before
    following = np.frombuffer(b"GET /index.html 200\n" * 2, np.uint8)[26:40]
    assert (second[:, longest, 2] > 0).sum() >= 10
    told = second[:, longest, 2] > 0
    assert np.array_equal(second[told, longest, 0], following[told])


def test_rows_do_not_meet() -> None:
    left, right = torch.tensor([list(LOG[:64])]), torch.tensor([list(LOG[7:71])])
    both, state = look(torch.cat([left, right]), tables_state(2, BITS))
    alone, after = look(right, tables_state(1, BITS))
    assert all(torch.equal(b[1], a[0]) for b, a in zip(both, alone, strict=True))
    assert all(torch.equal(state[name][1], after[name][0]) for name in state)


@pytest.mark.parametrize(
    ("vocabulary", "bits", "max_chunk"), [(255, 8, 32), (256, 3, 32), (256, 21, 32), (256, 8, 128)]
)
def test_sizes_that_do_not_fit_are_refused(vocabulary: int, bits: int, max_chunk: int) -> None:
    with pytest.raises(ValueError, match="context tables need"):
        small(Tokens(vocabulary, context_bits=bits), max_chunk)


def small(items: Tokens, max_chunk: int = 32) -> Config:
    """The smallest network with tables."""
    return Config(32, 1, 1, 16, 16, 1, 16, 16, 32, items, max_chunk=max_chunk)


def test_a_network_with_tables_is_exported_and_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(small(Tokens(context_bits=8))).eval()
    text = np.frombuffer(LOG, np.uint8)
    export_bundle(network, tmp_path / "b", data=text, certify_steps=20)
    stream = Session.open(tmp_path / "b").stream()
    found = [stream.advance(LOG[:70])["logits"], stream.flush()["logits"]]
    chunk = torch.tensor([list(LOG[:70])])
    with torch.no_grad():
        first, state = network(chunk[:, :32], network.initial_state(1))
        second, state = network(chunk[:, 32:64], state)
        third, state = network(chunk[:, 64:], state)
    expected = torch.cat([first["logits"], second["logits"], third["logits"]], 1).numpy()
    assert np.abs(np.concatenate(found, 1) - expected).max() < 1e-4
    quantize_bundle(tmp_path / "b", tmp_path / "q", "int8-dynamic")
    rounded = Session.open(tmp_path / "q").stream().step(chunk[:, :32].numpy())["logits"]
    assert np.abs(rounded - first["logits"].numpy()).max() < 0.3
    kept = stream.snapshot().state
    assert np.array_equal(kept["tables"], state["tables"].numpy())


def test_votes_move_the_logits_of_what_the_tables_hold() -> None:
    torch.manual_seed(0)
    network = Network(small(Tokens(context_bits=8))).eval()
    assert isinstance(network.head, Categorical)
    assert network.head.votes is not None
    chunk = torch.tensor([list(LOG[:32])])
    with torch.no_grad():
        before, _ = network(chunk, network.initial_state(1))
        network.head.votes.prior.weight += 1.0
        after, _ = network(chunk, network.initial_state(1))
        seen, _ = look(chunk, tables_state(1, 8))
    moved = (after["logits"] - before["logits"])[0]
    voted = torch.zeros_like(moved)
    for part in (seen.last, seen.before):
        voted.scatter_add_(1, part[0], (seen.run[0] > 0).float())
    assert torch.allclose(moved, voted, atol=1e-5)
