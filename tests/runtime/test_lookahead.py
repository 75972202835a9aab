"""Laws of look-ahead: a chunk waits for the items behind it, and no cut changes an answer."""

import contextlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.raising import refused
from tests.steps import Array, write_with_golden
from tests.windows import (
    close,
    drawn_items,
    right_answers,
    window_contract,
    window_manifest,
    window_model,
    write_window,
)

from dst.runtime import Session, StateStore, Stream, StreamPool, generate, replay
from dst.runtime.bundle.layout import laid_out, rows_of
from dst.runtime.bundle.manifest import Contract, Tokens
from dst.runtime.bundle.reader import open_bundle
from dst.runtime.bundle.validation import check_contract
from dst.runtime.errors import BundleError, PartialChunkError, StepError, StoreError
from dst.runtime.execution.memory import predict
from dst.runtime.execution.recurrence import Recurrence
from dst.runtime.golden import replay_golden
from dst.runtime.health import Health, Limits
from dst.runtime.state.record import pack, unpack

INPUTS: dict[str, Array] = {
    "gain": np.array([[[0.5, -1.0, 2.0], [1.5, 0.25, -3.0]]], np.float32),
    "offset": np.array([-2], np.int64),
}
COUNT = 41

# what they look ahead: less than a chunk, a chunk, more than one, more than two
KINDS = {
    "ahead": window_contract(("B", "T"), (4,), lookahead=3, tail="pad"),
    "chunk": window_contract(("B", "T", 2), (2, 4), lookback=1, lookahead=4, tail="pad"),
    "far": window_contract(("B", "T", 2), (4,), lookback=2, lookahead=9, tail="pad"),
    "one": window_contract(("B", "T"), (1,), lookback=2, lookahead=2, tail="pad"),
    "all": window_contract(
        ("B", 2, "T", 3),
        (1, 3),
        lookback=2,
        lookahead=5,
        tail="pad",
        normalised=True,
        given=True,
        offset=True,
    ),
    "refuse": window_contract(("B", "T"), (4,), lookback=1, lookahead=2, tail="refuse"),
}
Asked = dict[str, Array]


def inputs_of(session: Session) -> Asked | None:
    return INPUTS if session.contract.stream_inputs else None


def right_of(contract: Contract, items: Array) -> Array:
    if not contract.stream_inputs:
        return right_answers(contract, items)
    return right_answers(contract, items, INPUTS["gain"][0], -2)


@pytest.fixture(scope="module", params=list(KINDS))
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    root = tmp_path_factory.mktemp("ahead") / request.param
    return Session.open(write_window(root, KINDS[request.param]))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    root = tmp_path_factory.mktemp("ahead")
    return {n: Session.open(write_window(root / n, contract)) for n, contract in KINDS.items()}


def joined(contract: Contract, parts: list[Asked]) -> Asked:
    time = contract.chunk.time_axis
    axes = {"y": time, "peak": 0}
    return {name: np.concatenate([p[name] for p in parts], axes[name]) for name in parts[0]}


def same(first: Asked, second: Asked) -> None:
    for name, value in first.items():
        assert value.shape == second[name].shape
        assert value.tobytes() == second[name].tobytes()


WAYS = ("nothing", "save", "bytes", "store", "fork", "snapshot", "flush", "pool", "reset")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, COUNT), st.sampled_from(WAYS)), max_size=6).map(sorted),
    st.sampled_from(["chunk", "far", "one", "all"]),
)
def test_no_cut_and_nothing_between_two_calls_changes_an_answer(
    sessions: dict[str, Session],
    tmp_path_factory: pytest.TempPathFactory,
    points: list[tuple[int, str]],
    kind: str,
) -> None:
    session = sessions[kind]
    contract, folder = session.contract, tmp_path_factory.mktemp("cut")
    items = drawn_items(contract, COUNT)
    whole = session.stream(inputs=inputs_of(session))
    expected = joined(contract, [whole.advance(items)])
    stream, parts = session.stream(inputs=inputs_of(session)), []
    for (a, way), (b, _) in pairwise([(0, "nothing"), *points, (COUNT, "nothing")]):
        before = pack(stream.saved())
        if way == "save":
            stream.save(folder / "a.state")
            stream = Stream.load(session, folder / "a.state")
        elif way == "bytes":
            stream = session.stream(unpack(before))
        elif way == "store":
            with StateStore(folder / "memory.db") as store:
                store.put("a", stream.saved())
                stream = session.stream(store.get("a"))
        elif way == "fork":
            stream = stream.fork()
        elif way == "snapshot":
            kept = stream.snapshot()
            stream.advance(items[:7])
            stream.restore(kept)
        elif way == "flush":
            stream.flush()
        elif way == "pool":
            pool = StreamPool(session, 2, inputs=inputs_of(session))
            pool.swap_in(1, stream.saved())
            pool.flush([1])
            stream = session.stream(pool.swap_out(1))
        elif way == "reset":
            other = stream.fork()
            other.reset()
            assert other.inputs.keys() == stream.inputs.keys()
        assert pack(stream.saved()) == before
        parts.append(stream.advance(items[a:b]))
    same(joined(contract, parts), expected)
    assert pack(stream.saved()) == pack(whole.saved())


def test_answers_are_those_of_the_equations(session: Session) -> None:
    contract = session.contract
    chunk = contract.chunk
    items = drawn_items(contract, COUNT)
    stream = session.stream(inputs=inputs_of(session))
    y = rows_of(contract.chunk.shape, stream.advance(items)["y"])
    done = (COUNT - chunk.lookahead) // chunk.nominal_t * chunk.nominal_t
    assert (len(y), stream.items_consumed, stream.pending) == (done, done, COUNT - done)
    close(y, right_of(contract, items)[:done], 1e-4)


def test_the_first_chunk_waits_for_its_look_ahead(session: Session) -> None:
    chunk = session.contract.chunk
    need = chunk.nominal_t + chunk.lookahead
    items = drawn_items(session.contract, need)
    stream = session.stream(inputs=inputs_of(session))
    assert stream.advance(items[: need - 1])["y"].shape[chunk.time_axis] == 0
    assert (stream.items_consumed, stream.pending) == (0, need - 1)
    assert stream.advance(items[need - 1 :])["y"].shape[chunk.time_axis] == chunk.nominal_t
    assert (stream.items_consumed, stream.pending) == (chunk.nominal_t, chunk.lookahead)


def test_step_takes_the_chunk_and_its_look_ahead(session: Session) -> None:
    contract = session.contract
    chunk = contract.chunk
    items = drawn_items(contract, COUNT)
    by_items = session.stream(inputs=inputs_of(session))
    expected = by_items.advance(items)
    stream, parts = session.stream(inputs=inputs_of(session)), []
    for at in range(0, by_items.items_consumed, chunk.nominal_t):
        rows = items[at : at + chunk.nominal_t + chunk.lookahead]
        parts.append(stream.step(laid_out(chunk, rows)))
    y = np.concatenate([part["y"] for part in parts], chunk.time_axis)
    assert y.tobytes() == expected["y"].tobytes()
    assert stream.state["c"].tobytes() == by_items.state["c"].tobytes()
    assert stream.items_consumed == by_items.items_consumed
    too_few = laid_out(chunk, items[: chunk.lookahead])
    with refused(StepError, "chunk-shape", match=rf"has {chunk.lookahead} items, expected T \+ "):
        stream.step(too_few)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, COUNT), st.sampled_from(["ahead", "chunk", "far", "one", "all"]))
def test_a_padded_flush_answers_as_if_padding_followed(
    sessions: dict[str, Session], count: int, kind: str
) -> None:
    session = sessions[kind]
    contract = session.contract
    chunk = contract.chunk
    items = drawn_items(contract, count)
    stream = session.stream(inputs=inputs_of(session))
    first = stream.advance(items)
    before, waiting = pack(stream.saved()), stream.pending
    for _ in range(2):
        rest = stream.flush()
        assert rest["y"].shape[chunk.time_axis] == waiting
        assert pack(stream.saved()) == before
    pads = np.full((chunk.nominal_t + chunk.lookahead, *items.shape[1:]), 0.5, np.float32)
    whole = session.stream(inputs=inputs_of(session))
    expected = whole.advance(np.concatenate([items, pads]))["y"]
    found = rows_of(contract.chunk.shape, joined(contract, [first, rest])["y"])
    assert found.tobytes() == rows_of(contract.chunk.shape, expected)[:count].tobytes()
    pool = StreamPool(session, 3, inputs=inputs_of(session))
    pool.advance({0: items, 1: drawn_items(contract, 17, 1)})
    held = [pack(pool.swap_out(slot)) for slot in range(3)]
    answers = pool.flush([0, 1])
    assert [pack(pool.swap_out(slot)) for slot in range(3)] == held
    close(answers[0]["y"], rest["y"])


def test_a_flush_goes_on_where_more_waits_than_this_session_would_leave(
    sessions: dict[str, Session],
) -> None:
    """A record may hold more waiting items than one chunk: the whole chunks are committed."""
    session = sessions["all"]
    contract = session.contract
    items = drawn_items(contract, 20)
    stream = session.stream(replace(session.stream(inputs=INPUTS).saved(), pending=items))
    whole = session.stream(inputs=INPUTS)
    first = whole.advance(items)
    same(stream.flush(), joined(contract, [first, whole.flush()]))
    assert pack(stream.saved()) == pack(whole.saved())


def test_refuse_says_how_many_are_missing(sessions: dict[str, Session]) -> None:
    stream = sessions["refuse"].stream()
    items = drawn_items(sessions["refuse"].contract, 9)
    stream.advance(items)
    assert (stream.items_consumed, stream.pending) == (4, 5)
    with pytest.raises(
        PartialChunkError, match=r"5 items wait.*2 items of look-ahead.*give 1 more"
    ):
        stream.flush()
    assert stream.advance(items[:1])["y"].shape == (1, 4)


def test_pool_slots_answer_as_streams_do(session: Session) -> None:
    contract = session.contract
    pool = StreamPool(session, 3, inputs=inputs_of(session))
    alone = [session.stream(inputs=inputs_of(session)) for _ in range(3)]
    random = np.random.default_rng(5)
    for turn in range(10):
        given_now = {s: drawn_items(contract, int(random.integers(0, 12)), turn) for s in (0, 2)}
        found = pool.advance(given_now)
        for slot, items in given_now.items():
            right = alone[slot].advance(items)
            for name, value in right.items():
                close(found[slot][name], value)
            assert pool.pending(slot) == alone[slot].pending
    chunk = contract.chunk
    single = laid_out(chunk, drawn_items(contract, chunk.nominal_t + chunk.lookahead))
    right = session.stream(inputs=inputs_of(session)).step(single)
    close(pool.step({1: single})[1]["y"], right["y"])


@pytest.mark.parametrize("item", [8, 11, 12, 19, 20, 33])
def test_replay_goes_to_the_item(sessions: dict[str, Session], item: int) -> None:
    session = sessions["chunk"]
    items = drawn_items(session.contract, COUNT)
    stream, saved = session.stream(), []
    for at in range(0, COUNT, 5):
        saved.append(stream.saved())
        stream.advance(items[at : at + 5])
    right = session.stream()
    right.advance(items[:item])
    reached = 0
    for record in saved:
        if record.items_consumed and record.items_consumed + 4 > item:  # it has seen what follows
            with refused(StoreError, "replay", match=rf"rewind\(name, {item - 4}\)"):
                replay(session, record, items, first=0, item=item)
            continue
        back = replay(session, record, items, first=0, item=item)
        reached += 1
        assert pack(back.saved()) == pack(right.saved())
    assert reached >= 2


def test_a_health_check_puts_back_what_waits_too(sessions: dict[str, Session]) -> None:
    session = sessions["all"]
    items = drawn_items(session.contract, COUNT)
    stream = session.stream(inputs=INPUTS)
    stream.advance(items)
    health = Health(stream, policy="rollback", limits=Limits(peak=1e6))
    before = pack(stream.saved())
    stream.advance(items + np.float32(1e7))
    assert not health.look().healthy
    assert pack(stream.saved()) == before


def test_a_failed_call_leaves_waiting_items_and_inputs_as_they_were(
    sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt at every step of a flush that takes several, and at the way back."""
    session = sessions["far"]
    items = drawn_items(session.contract, COUNT)
    stream = session.stream()
    stream.advance(items)
    before, expected = pack(stream.saved()), stream.flush()
    for name in ("hold", "release", "ready", "commit"):
        for number in range(4):
            with monkeypatch.context() as patch:
                interrupt_call(patch, name, number)
                with contextlib.suppress(KeyboardInterrupt):
                    stream.flush()
            assert pack(stream.saved()) == before, (name, number)
            same(stream.flush(), expected)


def interrupt_call(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Have call `number` of a method of every stream's memory, and all after it, interrupted."""
    method: Callable[..., object] = getattr(Recurrence, name)
    calls = iter(range(1000))

    def broken(*args: object) -> object:
        if next(calls) >= number:
            raise KeyboardInterrupt
        return method(*args)

    patch.setattr(Recurrence, name, broken)


def test_golden_runs_hold_chunks_with_their_look_ahead(tmp_path: Path) -> None:
    contract = KINDS["all"]
    items = drawn_items(contract, 30)
    chunks = [laid_out(contract.chunk, items[at : at + 8]) for at in range(0, 21, 3)]
    manifest, model = window_manifest(contract), window_model(contract)
    write_with_golden(tmp_path / "b", manifest, model, chunks, inputs=INPUTS)
    bundle = open_bundle(tmp_path / "b")
    assert bundle.tensors("golden.safetensors")["t3/chunk"].shape == (7, 1, 2, 8, 3)
    assert [check.passed for check in replay_golden(bundle)] == [True]


def test_memory_counts_what_waits_and_what_is_read() -> None:
    plain = window_contract(("B", "T", 2), (4,), lookback=1, tail="pad")
    ahead = replace(plain, chunk=replace(plain.chunk, lookahead=5))
    one, two = (predict(window_manifest(c), 1, 1, [4]) for c in (plain, ahead))
    assert two.waiting_bytes - one.waiting_bytes == 3 * 5 * 2 * 4
    assert two.scratch_bytes - one.scratch_bytes == 5 * 2 * 4


def test_a_model_that_looks_ahead_cannot_generate(text: Session) -> None:
    contract = text.contract
    chunk = replace(contract.chunk, lookahead=2, tail="refuse", allowed_t=(8,))
    assert isinstance(chunk.content, Tokens)
    stream = text.stream()
    bundle = replace_contract(text, replace(contract, chunk=chunk))
    with refused(StepError, "generate", match="looks 2 items ahead"):
        next(generate(bundle.stream(), b"abc", 1))
    del stream


def replace_contract(session: Session, contract: Contract) -> Session:
    """A session that says it keeps another contract; its graphs are not opened."""
    manifest = replace(session.bundle.manifest, contract=contract)
    bundle = type(session.bundle)(session.bundle.root, manifest)
    return Session(
        bundle,
        provider="cpu",
        threads=1,
        graphs=manifest.graphs,
        chunk_sizes=[8],
        check_state_every=64,
    )


def test_the_rules() -> None:
    good = KINDS["chunk"]
    check_contract(good)
    check_contract(replace(good, chunk=replace(good.chunk, causal=False)))
    with refused(
        BundleError, "contract", match=r"`exact` with lookahead 4.*choose `pad` or `refuse`"
    ):
        check_contract(
            replace(
                good,
                chunk=replace(good.chunk, tail="exact", pad_value=None, allowed_t=(1, 2, 4)),
            )
        )
    exact = window_contract(allowed_t=(1, 2))
    with refused(BundleError, "contract", match=r"`exact` and causal is false: with T of \[1, 2\]"):
        check_contract(replace(exact, chunk=replace(exact.chunk, causal=False)))
    single = window_contract(allowed_t=(1,))
    check_contract(replace(single, chunk=replace(single.chunk, causal=False)))
