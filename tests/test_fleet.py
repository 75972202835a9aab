"""A fleet over Ray gives what one process gives, whoever dies; its page runs as printed."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.conftest import text_files, text_manifest
from tests.runtime.pool.conftest import same
from tests.test_docs import python_of

from dst.fleet.placing import holders
from dst.runtime import Session, StreamPool, write_bundle
from dst.runtime.errors import StreamNotFoundError
from dst.runtime.state.record import pack

ROOT = Path(__file__).resolve().parents[1]
WORKERS = [f"worker-{n}" for n in range(4)]


def test_a_worker_that_goes_moves_only_its_own_streams_to_their_copies() -> None:
    """And one that comes takes a fair share."""
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
    ray.init(num_cpus=5, include_dashboard=False, log_to_driver=False)
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


@pytest.mark.fleet
def test_results_are_those_of_one_process_whoever_dies(
    cluster: None, bundle: Path, tmp_path: Path
) -> None:
    from dst.fleet import Fleet, FleetError

    session = Session.open(bundle, lowering="fused")
    with Fleet(bundle, tmp_path, workers=3, slots=8, num_cpus=1) as fleet:
        both = Both(fleet, session, 60)
        both.read()
        for kill in range(2):
            victim = [*fleet.workers.values()][kill]
            timer = threading.Timer(0.05, os.kill, (victim, signal.SIGKILL))
            timer.start()
            for _ in range(4):
                both.read()
            timer.join()
            both.read()
            assert victim not in fleet.workers.values()
            both.compare()
        name = fleet.add_worker()
        both.read()
        both.compare()
        fleet.remove_worker(name)
        both.read()
        both.compare()
        with pytest.raises(FleetError) as caught:
            fleet.advance({"s1": np.array([300]), "s2": b"", "new\n": b"x"})
        codes = {key: getattr(error, "code", "") for key, error in caught.value.failed.items()}
        assert codes == {"s1": "token-out-of-range", "new\n": "stream-name"}
        assert [*caught.value.outputs] == ["s2"]
        fleet.delete("s3")
        with pytest.raises(StreamNotFoundError):
            fleet.get("s3")
        assert len(fleet.streams) == 59
    with Fleet(bundle, tmp_path, workers=2, slots=8, num_cpus=1) as fleet:
        for n in range(60):
            if n != 3:
                assert pack(fleet.get(f"s{n}")) == pack(both.pool.swap_out(n))
        # both holders of every stream die at once, and nobody has a third copy
        for pid in fleet.workers.values():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(FleetError) as caught:
            fleet.advance({"s1": b"x", "newcomer": b"x"})
        assert {key: getattr(error, "code", "") for key, error in caught.value.failed.items()} == {
            "s1": "stream-lost"
        }


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
