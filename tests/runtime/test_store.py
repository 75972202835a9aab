"""Laws of the store: what was put is what is got, whoever else is at work, until it is wiped."""

import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.raising import Fault, refused

from dst.runtime import Session, StateStore, generate
from dst.runtime.errors import (
    NonFiniteError,
    StateError,
    StateNotFoundError,
    StoreError,
    StreamNotFoundError,
)
from dst.runtime.state.record import Identity, Saved, pack

SAMPLES = np.random.default_rng(2).normal(size=(60, 2)).astype(np.float32)


def state(item: int, size: int = 64, fill: float | None = None) -> Saved:
    """A saved state of no real model; without `fill`, of noise that its item determines."""
    noise = np.random.default_rng(item).normal(size=(1, size)).astype(np.float32)
    return Saved(
        identity=Identity("a" * 64, "b" * 64, "c" * 64, "float32"),
        items_consumed=item,
        seed=None,
        draws=0,
        state={"h": noise if fill is None else np.full_like(noise, fill)},
        pending=np.zeros(0, np.int64),
        lookback=np.zeros(0, np.int64),
    )


def files_of(path: Path) -> bytes:
    """What the database, its -wal and its -shm file hold together."""
    return b"".join(p.read_bytes() for p in sorted(path.parent.glob(f"{path.name}*")))


def test_put_and_get_are_the_identity(sensor: Session, text: Session, tmp_path: Path) -> None:
    stream, writer = sensor.stream(), text.stream()
    stream.advance(SAMPLES[:23])  # 20 in the state, 3 waiting, 3 of lookback
    list(generate(writer, "abc", 5, seed=2**64 - 1))
    with StateStore(tmp_path / "a.db") as store:
        store.put_many({"sensor": stream.saved(), "text": writer.saved()})
        assert pack(store.get("text")) == pack(writer.saved())
    with StateStore(tmp_path / "a.db") as store:
        again = sensor.stream(store.get("sensor"))
        sampler = text.stream(store.get("text")).sampler
    assert (again.items_consumed, again.pending) == (20, 3)
    assert stream.advance(SAMPLES)["y"].tobytes() == again.advance(SAMPLES)["y"].tobytes()
    assert sampler == writer.sampler
    assert sampler is not None


def test_streams_of_one_state_go_their_own_ways(text: Session, tmp_path: Path) -> None:
    stream = text.stream()
    stream.advance(b"a common past, ")
    with StateStore(tmp_path / "a.db") as store:
        store.put("past", stream.saved())
        forks = [text.stream(store.get("past")) for _ in range(2)]
        for fork, name, words in zip(forks, "ab", (b"then left...", b"then right!!"), strict=True):
            alone = stream.fork()
            wanted = alone.advance(words)["logits"].tobytes()
            assert fork.advance(words)["logits"].tobytes() == wanted
            store.put(name, fork.saved())
            assert pack(store.get(name)) == pack(alone.saved())
        assert pack(store.get("a")) != pack(store.get("b"))
        assert pack(store.get("past")) == pack(stream.saved())


def test_the_newest_is_got_and_older_ones_by_record(tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db") as store:
        for item in (8, 16, 24):
            store.put("a", state(item))
            store.put("b", state(item + 1))
        assert store.get("a").items_consumed == 24
        kept = store.history("a")
        assert [k.items_consumed for k in kept] == [24, 16, 8]
        assert [k.record for k in kept] == sorted((k.record for k in kept), reverse=True)
        for k in kept:
            assert pack(store.get("a", k.record)) == pack(state(k.items_consumed))
        with pytest.raises(StateNotFoundError, match="'a' has no record"):
            store.get("a", store.history("b")[0].record)


def test_list_adds_up(tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db") as store:
        assert store.list() == ()
        for item in (8, 16, 24):
            store.put("b", state(item))
        store.put("a", state(3, size=100))
        entries = store.list()
        assert [entry.name for entry in entries] == ["a", "b"]
        for entry in entries:
            history = store.history(entry.name)
            newest = history[0]
            assert entry.items_consumed == store.get(entry.name).items_consumed
            assert (entry.size_bytes, entry.saved_at_ms) == (newest.size_bytes, newest.saved_at_ms)
            assert (entry.states, entry.total_bytes) == (
                len(history),
                sum(k.size_bytes for k in history),
            )


def test_delete_forgets_one_stream_with_its_history(tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db") as store:
        for item in (8, 16):
            store.put_many({"a": state(item), "b": state(item)})
        store.delete("a")
        assert [entry.name for entry in store.list()] == ["b"]
        assert len(store.history("b")) == 2
        for call in (store.get, store.history, store.delete):
            with pytest.raises(StreamNotFoundError, match="no stream 'a'"):
                call("a")
        with pytest.raises(StreamNotFoundError):
            store.rewind("a", 99)
        store.put("a", state(5))
        assert [k.items_consumed for k in store.history("a")] == [5]


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "\ud800", "x" * 201, 5])
def test_names_that_no_stream_can_have(tmp_path: Path, name: str) -> None:
    with StateStore(tmp_path / "a.db") as store:
        for call in (store.get, store.history, store.delete):
            with refused(StoreError, "stream-name", match="1 to 200 printable characters"):
                call(name)
        with refused(StoreError, "stream-name"):
            store.put(name, state(8))
        assert store.list() == ()


def test_names_are_told_apart_byte_for_byte(tmp_path: Path) -> None:
    names = ["a", "A", "ä", "a\u0308", "a b/c'; --", "../x", "x" * 200, "日"]
    with StateStore(tmp_path / "a.db") as store:
        store.put_many({name: state(i) for i, name in enumerate(names)})
        for i, name in enumerate(names):
            assert store.get(name).items_consumed == i
        assert {entry.name for entry in store.list()} == set(names)


def test_all_of_put_many_or_nothing(tmp_path: Path) -> None:
    bad = msgspec.structs.replace(state(8), state={"h": np.array([[1, np.nan]], np.float32)})
    far = msgspec.structs.replace(state(8), items_consumed=2**63)
    cases: list[tuple[Saved, Fault, str]] = [
        (bad, Fault(NonFiniteError, "state-not-finite"), "`h` of stream 'b' holds a NaN"),
        (far, Fault(StateError, "state-numbers"), "items_consumed is 9223372036854775808"),
    ]
    with StateStore(tmp_path / "a.db") as store:
        store.put("a", state(8))
        for wrong, error, words in cases:
            with refused(*error, match=words):
                store.put_many({"a": state(16), "b": wrong})
            assert [entry.name for entry in store.list()] == ["a"]
            assert store.get("a").items_consumed == 8


def test_a_put_that_breaks_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dst.runtime.store.records.MAX_BLOB_BYTES", 5000)
    with StateStore(tmp_path / "a.db") as store:
        with pytest.raises(StateError, match=r"'b' has \d+ bytes, a store takes 5000"):
            store.put_many({"a": state(8), "b": state(8, size=2000)})
        assert store.list() == ()
        store.put("a", state(8))
        assert store.get("a").items_consumed == 8


def test_many_threads_at_once(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "a.db", durable=False)
    rounds, workers = 12, 6
    start = threading.Barrier(workers)

    def work(number: int) -> None:
        start.wait()
        for i in range(1, rounds + 1):
            store.put_many({f"own {number}": state(i * 8), "shared": state(number)})
            assert store.get(f"own {number}").items_consumed == i * 8
            assert store.get("shared").items_consumed in range(workers)

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, number) for number in range(workers)]:
            done.result()
    assert {e.name: e.items_consumed for e in store.list() if e.name != "shared"} == {
        f"own {number}": rounds * 8 for number in range(workers)
    }
    store.close()


WORKER = """
import sys
sys.path[:0] = sys.argv[3:]
from test_store import state
from dst.runtime import StateStore
sys.stdin.readline()
with StateStore(sys.argv[1], timeout_s=60) as store:
    for i in range(1, 11):
        store.put_many({sys.argv[2]: state(i * 8), "shared": state(i)})
        assert store.get(sys.argv[2]).items_consumed == i * 8
"""


def test_many_processes_at_once_from_the_first_byte_on(tmp_path: Path) -> None:
    """They also race for making the file."""
    path, here = tmp_path / "a.db", str(Path(__file__).parent)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), name, here], stdin=subprocess.PIPE
        )
        for name in "abc"
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=120)
        assert child.returncode == 0
    with StateStore(path) as store:
        assert [e.name for e in store.list()] == ["a", "b", "c", "shared"]
        assert {store.get(name).items_consumed for name in "abc"} == {80}
        assert store.get("shared").items_consumed == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_open_anew(tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db") as store:
        store.put("a", state(8))
        child = os.fork()
        if not child:
            code = 1
            try:
                store.get("a")
            except StoreError as error:
                code = 0 if "forked" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.get("a").items_consumed == 8


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "a.db")
    store.put("a", state(8))
    store.close()
    store.close()
    with refused(StoreError, "store-closed", match=r"a\.db: is closed"):
        store.get("a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.db"]  # no -wal or -shm is left


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_the_sync_level_is_the_documented_one(tmp_path: Path, durable: bool, level: int) -> None:
    with StateStore(tmp_path / "a.db", durable=durable) as store:
        with store._database.reading() as connection:
            found = [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("synchronous", "journal_mode", "secure_delete", "auto_vacuum")
            ]
        assert found == [level, "wal", 1, 2]


@pytest.mark.parametrize("wrong", [{"history_bytes": -1}, {"timeout_s": -1.0}])
def test_numbers_out_of_range(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(StoreError, match=f"{next(iter(wrong))} is -1.*expected 0"):
        StateStore(tmp_path / "a.db", **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# --- forgetting for good


def secret(number: int) -> Saved:
    """A state whose every float is one that no other thing holds."""
    return state(number, size=3000 + 40 * number, fill=float(np.float32(1.2345e-7) * (number + 1)))


def traces(path: Path, numbers: range) -> set[str]:
    """Which secrets and names the files still hold."""
    held = files_of(path)
    found = {f"state {n}" for n in numbers if secret(n).state["h"].tobytes()[:16] in held}
    return found | {f"name {n}" for n in numbers if f"very private {n}".encode() in held}


@pytest.mark.parametrize("history_bytes", [0, 1 << 20])
def test_wipe_leaves_no_byte(tmp_path: Path, history_bytes: int) -> None:
    path, numbers = tmp_path / "a.db", range(40)
    store = StateStore(path, history_bytes=history_bytes, durable=False)
    other = StateStore(path)  # stays open all the time
    for n in numbers:
        store.put(f"very private {n}", secret(n))
        store.put(f"very private {n // 2}", secret(n))  # of which some are dropped at once
    assert other.get("very private 39").items_consumed == 39
    assert len(traces(path, numbers)) == 80  # so the search finds them
    store.delete("very private 39")
    store.wipe()
    assert traces(path, numbers) == set()
    assert store.list() == other.list() == ()
    other.put("new", state(8))
    assert store.get("new").items_consumed == 8
    store.close()
    other.close()
    assert traces(path, numbers) == set()


def test_delete_and_vacuum_leave_no_byte_of_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with StateStore(path, durable=False) as store:
        for n in range(20):
            store.put(f"very private {n}", secret(n))
        store.vacuum()
        before = path.stat().st_size
        for n in range(0, 20, 2):
            store.delete(f"very private {n}")
        store.vacuum()
        assert traces(path, range(20)) == {
            f"{what} {n}" for n in range(1, 20, 2) for what in ("state", "name")
        }
        assert path.stat().st_size < 0.7 * before
        assert [store.get(f"very private {n}").items_consumed for n in range(1, 20, 2)] == [
            *range(1, 20, 2)
        ]


def test_the_log_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody reads without end; and if somebody does, as soon as he has done."""
    monkeypatch.setattr("dst.runtime.store.database.LOG_BYTES", 1 << 20)
    log = tmp_path / "a.db-wal"
    with StateStore(tmp_path / "a.db", history_bytes=0, durable=False) as store:
        for item in range(30):
            store.put("a", state(item, size=50_000))
        assert log.stat().st_size < 3 << 20
        reader = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM states").fetchone()
        for item in range(30, 50):
            store.put("a", state(item, size=50_000))
        assert log.stat().st_size > 4 << 20
        reader.close()
        for item in range(50, 60):
            store.put("a", state(item, size=50_000))
        assert log.stat().st_size < 3 << 20
        assert (tmp_path / "a.db").stat().st_size < 2 << 20
        assert pack(store.get("a")) == pack(state(59, size=50_000))


def test_thousands_of_streams(tmp_path: Path) -> None:
    many = {f"stream {i}": state(i) for i in range(3000)}
    with StateStore(tmp_path / "a.db", durable=False) as store:
        store.put_many(many)
        store.put_many(dict(list(many.items())[:1000]))
        assert len(store.list()) == 3000
        for i in range(0, 3000, 97):
            assert pack(store.get(f"stream {i}")) == pack(many[f"stream {i}"])
