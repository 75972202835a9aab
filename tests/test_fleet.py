"""A fleet over Ray gives what one process gives, whoever dies; its page runs as printed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.conftest import text_files, text_manifest
from tests.runtime.pool.conftest import same
from tests.test_docs import python_of

from dst.runtime import Session, StreamPool, write_bundle
from dst.runtime.errors import ServingError, StoreError, StreamNotFoundError
from dst.runtime.state.record import pack

ROOT = Path(__file__).resolve().parents[1]
WORKERS = [f"worker-{n}" for n in range(4)]


@pytest.mark.fleet
def test_a_worker_that_goes_moves_only_its_own_streams_to_their_copies() -> None:
    """And one that comes takes a fair share."""
    from dst.fleet.fleet import holders

    keys = [f"stream {n}" for n in range(2000)]
    before = {key: holders(key, WORKERS) for key in keys}
    for gone in WORKERS:
        rest = [worker for worker in WORKERS if worker != gone]
        for key in keys:
            now = holders(key, rest)
            if before[key][0] == gone:
                assert now[0] == before[key][1]
            else:
                assert now[0] == before[key][0]
                assert before[key][1] == gone or now == before[key]
    for worker in WORKERS:
        assert 400 < sum(pair[0] == worker for pair in before.values()) < 600


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text model: T = 1, 4, 8."""
    path = tmp_path_factory.mktemp("bundles") / "text"
    write_bundle(path, text_manifest(), text_files())
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=5, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Both:
    """A fleet and one pool with a slot per stream, which read the same."""

    def __init__(self, fleet, session: Session, streams: int) -> None:  # type: ignore[no-untyped-def]
        self.fleet, self.streams = fleet, streams
        self.pool = StreamPool(session, streams)
        self.random = np.random.default_rng(0)

    def read(self) -> None:
        items = {
            n: self.random.bytes(int(self.random.integers(0, 17))) for n in range(self.streams)
        }
        ends = [n for n in items if self.random.random() < 0.3]
        found = self.fleet.advance({f"s{n}": v for n, v in items.items()},
                                   flush=[f"s{n}" for n in ends])  # fmt: skip
        expected = self.pool.advance(items, flush=ends)
        for n in items:
            same({k: np.asarray(v) for k, v in found[f"s{n}"].items()}, expected[n])

    def compare(self) -> None:
        for n in range(self.streams):
            assert pack(self.fleet.get(f"s{n}")) == pack(self.pool.swap_out(n)), n


def pids(fleet) -> list[int]:  # type: ignore[no-untyped-def]
    """Ask the workers for their process ids."""
    import ray

    calls = [w.__ray_call__.remote(lambda _: os.getpid()) for w in fleet.workers.values()]
    found: list[int] = ray.get(calls)
    return found


@pytest.mark.fleet
def test_results_are_those_of_one_process_whoever_dies(
    cluster: None, bundle: Path, tmp_path: Path
) -> None:
    """A worker is killed while it works; the second time its disk is gone, too."""
    from dst.fleet import Fleet

    session = Session.open(bundle, lowering="fused")
    with Fleet(bundle, tmp_path, workers=3, slots=8) as fleet:
        both = Both(fleet, session, 60)
        both.read()
        for kill in range(2):
            name, victim = [*fleet.workers][kill], pids(fleet)[kill]
            timer = threading.Timer(0.05, os.kill, (victim, signal.SIGKILL))
            timer.start()
            if kill:
                shutil.rmtree(tmp_path / name)
            for _ in range(4):
                both.read()
            timer.join()
            both.read()
            assert name not in fleet.workers
            assert len(fleet.workers) == 3
            assert not (tmp_path / name).exists()
            both.compare()
            two_holders(fleet)


@pytest.mark.fleet
def test_streams_move_when_workers_come_and_go(cluster: None, bundle: Path, tmp_path: Path) -> None:
    """There and back: a state of an earlier stay is never taken for the newest one."""
    from dst.fleet import Fleet

    session = Session.open(bundle, lowering="fused")
    with Fleet(bundle, tmp_path, workers=1, slots=8) as fleet:
        both = Both(fleet, session, 60)
        both.read()
        (first,) = fleet.workers
        with pytest.raises(ServingError, match="only worker"):
            fleet.remove_worker(first)
        for _ in range(2):
            second = fleet.add_worker()
            two_holders(fleet)
            both.read()
            both.compare()
            third = fleet.add_worker()
            both.read()
            fleet.remove_worker(first)
            two_holders(fleet)
            both.read()
            both.compare()
            fleet.remove_worker(second)
            both.read()
            both.compare()
            first = third
    with Fleet(bundle, tmp_path, workers=2, slots=8) as fleet:  # the program starts again
        both.fleet = fleet
        both.compare()
        two_holders(fleet)
        both.read()
        both.compare()


def two_holders(fleet) -> None:  # type: ignore[no-untyped-def]
    """The two workers that are to hold a stream have the same last state of it, others nothing."""
    import ray

    from dst.fleet.fleet import holders

    there = {
        name: {entry.name.rpartition("#")[0] for entry in ray.get(worker.store.remote("list"))}
        for name, worker in fleet.workers.items()
    }
    for name, keys in there.items():
        assert keys == {key for key in fleet.where if name in holders(key, fleet.workers)}
    states = {
        (key, name): pack(ray.get(fleet.workers[name].store.remote("get", fleet._names[key])))
        for key, where in fleet.where.items()
        for name in where
    }
    for key, where in fleet.where.items():
        assert where == holders(key, fleet.workers)
        assert len({states[key, name] for name in where}) == 1


@pytest.mark.fleet
def test_a_stream_fails_alone_and_is_as_it_was(cluster: None, bundle: Path, tmp_path: Path) -> None:
    from dst.fleet import Fleet, FleetError

    session = Session.open(bundle, lowering="fused")
    with Fleet(bundle, tmp_path, workers=2, slots=8) as fleet:
        both = Both(fleet, session, 20)
        both.read()
        with pytest.raises(FleetError, match="1 streams failed, 1 went on") as caught:
            fleet.advance({"s1": np.array([300]), "s2": b""})
        codes = {key: getattr(error, "code", "") for key, error in caught.value.failed.items()}
        assert codes == {"s1": "token-out-of-range"}
        assert [*caught.value.outputs] == ["s2"]
        names: list[Any] = ["new\n", "", "x" * 191, 5]
        for name in names:
            with pytest.raises(StoreError, match="no stream can be named"):
                fleet.advance({"s3": b"not read", name: b"x"})
        both.compare()
        fleet.delete("s3")
        with pytest.raises(StreamNotFoundError):
            fleet.get("s3")
        assert len(fleet.where) == 19
        two_holders(fleet)
        # both holders of every stream die at once, and nobody has a third copy
        for pid in pids(fleet):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(FleetError) as caught:
            fleet.advance({"s1": b"x", "newcomer": b"x"})
        assert {key: getattr(error, "code", "") for key, error in caught.value.failed.items()} == {
            "s1": "stream-lost"
        }
        fleet.delete("s1")
        fleet.advance({"s1": b"x"})  # a new one


@pytest.mark.fleet
def test_a_bundle_that_is_not_there_is_named(cluster: None, tmp_path: Path) -> None:
    import ray

    from dst.fleet import Fleet

    with pytest.raises(ray.exceptions.RayError, match="nowhere"):
        Fleet(tmp_path / "nowhere", tmp_path, workers=1)


@pytest.mark.fleet
def test_recorded_streams_are_read_by_ray_data(cluster: None) -> None:
    import ray

    from dst.fleet import StreamMap

    texts = [bytes([65 + n % 26]) * (1 + n % 40) for n in range(50)]
    rows = ray.data.from_items([{"name": n, "items": text} for n, text in enumerate(texts)])
    found = rows.map_batches(
        StreamMap, fn_constructor_args=("text",), batch_size=16, concurrency=1
    ).take_all()
    pool = StreamPool(Session.open("text", lowering="fused"), 2)
    assert sorted(row["name"] for row in found) == [*range(50)]
    for row in found:
        pool.reset(0)
        expected = pool.advance({0: texts[row["name"]]}, flush=[0], last=True)[0]["logits"][0]
        assert np.asarray(row["logits"]).tobytes() == expected.tobytes()


@pytest.mark.fleet
def test_the_page_runs_as_printed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = tmp_path / "page.py"
    script.write_text(python_of((ROOT / "docs/fleet.md").read_text("utf-8")), "utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr
