"""A fleet whose workers die in the middle of any call, in one process and without Ray.

What of Ray the fleet uses is played by a few lines here: actors that are called at once, and of
which one dies before or after a call that is drawn by lot. The tests marked `fleet` use Ray.
"""

import random
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.conftest import text_files, text_manifest
from tests.runtime.pool.conftest import same

from dst.runtime import Session, StreamPool, write_bundle
from dst.runtime.errors import StreamNotFoundError
from dst.runtime.state.record import pack

STREAMS = 20


class RayError(Exception):
    """As Ray's."""


class RayActorError(RayError):
    """As Ray's."""


class ActorUnschedulableError(RayError):
    """As Ray's."""


class RayTaskError(RayError):
    """As Ray's: it carries what a call has raised, and is of its class too."""

    cause: Exception

    @staticmethod
    def of(cause: Exception) -> Exception:
        dual = type("RayTaskError", (RayTaskError, type(cause)), {"__init__": lambda self: None})
        error: Exception = dual()
        vars(error).update(vars(cause) | {"cause": cause})
        return error


class Lot:
    """Says when a worker dies: once at most after each `again`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.chance = 0.0
        self.deaths: list[str] = []

    def falls(self, call: str) -> bool:
        if self.random.random() >= self.chance:
            return False
        self.chance = 0.0
        self.deaths.append(call)
        return True


class Actor:
    """A worker in this process; `actor.method.remote(...)` is carried out when its answer is."""

    def __init__(self, lot: Lot, made: Any) -> None:
        self.lot, self.made, self.dead = lot, made, False

    def __getattr__(self, name: str) -> Any:
        return types.SimpleNamespace(remote=lambda *given: Call(self, name, given))

    def carry_out(self, name: str, given: tuple[Any, ...]) -> Any:
        if self.dead:
            raise RayActorError
        if name == "__ray_ready__":
            return True
        dies = self.lot.falls(name)
        if dies and self.lot.random.random() < 0.5:
            self.dead = True
            raise RayActorError
        answer = getattr(self.made, name)(*given)
        if dies:
            self.dead = True
            raise RayActorError
        return answer


class Call:
    """A call under way."""

    def __init__(self, actor: Actor, name: str, given: tuple[Any, ...]) -> None:
        self.actor, self.name, self.given = actor, name, given
        self.answer: Any = None
        self.done = False

    def get(self) -> Any:
        if not self.done:
            self.done = True
            try:
                self.answer = self.actor.carry_out(self.name, self.given)
            except RayError as error:
                self.answer = error
            except Exception as error:
                self.answer = RayTaskError.of(error)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def played(lot: Lot) -> types.ModuleType:
    """Return what the fleet needs of the module `ray`."""

    def get(calls: Any, timeout: float | None = None) -> Any:
        return [call.get() for call in calls] if isinstance(calls, list) else calls.get()

    def wait(calls: list[Call]) -> tuple[list[Call], list[Call]]:
        first = lot.random.choice(calls)
        return [first], [call for call in calls if call is not first]

    def remote(**options: object) -> Callable[[Any], object]:
        def start(made: Any, given: tuple[Any, ...]) -> object:
            if isinstance(made, type):
                return Actor(lot, made(*given))
            return Call(Actor(Lot(0), types.SimpleNamespace(task=made)), "task", given)

        return lambda made: types.SimpleNamespace(remote=lambda *given: start(made, given))

    ray = types.ModuleType("ray")
    ray.exceptions = types.SimpleNamespace(  # type: ignore[attr-defined]
        RayError=RayError,
        RayActorError=RayActorError,
        RayTaskError=RayTaskError,
        ActorUnschedulableError=ActorUnschedulableError,
    )
    ray.get, ray.wait, ray.remote = get, wait, remote  # type: ignore[attr-defined]
    ray.kill = lambda actor: setattr(actor, "dead", True)  # type: ignore[attr-defined]
    ray.method = lambda **options: lambda method: method  # type: ignore[attr-defined]
    return ray


@pytest.fixture(params=range(2))
def lot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lot]:
    """Let `dst.fleet` find the played module, and forget it afterwards."""
    known = {name: module for name, module in sys.modules.items() if name.startswith("dst.fleet")}
    for name in known:
        monkeypatch.delitem(sys.modules, name)
    lot = Lot(request.param)
    monkeypatch.setitem(sys.modules, "ray", played(lot))
    yield lot
    for name in [name for name in sys.modules if name.startswith("dst.fleet")]:
        del sys.modules[name]


class Both:
    """A fleet and one pool with a slot per stream, which read the same."""

    def __init__(self, fleet: Any, session: Session, seed: int) -> None:
        self.fleet, self.pool = fleet, StreamPool(session, STREAMS)
        self.random = np.random.default_rng(seed)
        self.known: set[int] = set()

    def read(self) -> None:
        some = [n for n in range(STREAMS) if self.random.random() < 0.7]
        items = {n: self.random.bytes(int(self.random.integers(0, 12))) for n in some}
        ends = [n for n in some if self.random.random() < 0.3]
        found = self.fleet.advance(
            {f"s{n}": value for n, value in items.items()}, flush=[f"s{n}" for n in ends]
        )
        expected = self.pool.advance(items, flush=ends)
        for n in some:
            same(found[f"s{n}"], expected[n])
        assert len(found) == len(some)
        self.known |= {*some}

    def compare(self) -> None:
        """Every stream's last state, and that its two holders have it and nobody else."""
        from dst.fleet.fleet import holders

        self.fleet._run({})
        workers = {name: actor.made._store for name, actor in self.fleet.workers.items()}
        assert self.fleet.where.keys() == {f"s{n}" for n in self.known}
        for n in self.known:
            key, state = f"s{n}", pack(self.pool.swap_out(n))
            assert pack(self.fleet.get(key)) == state
            where = self.fleet.where[key]
            assert where == holders(key, workers)
            for name, store in workers.items():
                if name in where:
                    assert pack(store.get(self.fleet._names[key])) == state
                else:
                    for parity in (0, 1):
                        with pytest.raises(StreamNotFoundError):
                            store.get(f"{key}#{parity}")


@pytest.mark.parametrize("replace", [True, False])
def test_whoever_dies_in_whatever_call_every_stream_goes_on(
    lot: Lot, tmp_path: Path, replace: bool
) -> None:
    from dst.fleet import Fleet

    bundle, folder = tmp_path / "text", tmp_path / "states"
    write_bundle(bundle, text_manifest(), text_files())
    session = Session.open(bundle, lowering="fused")
    with Fleet(bundle, folder, workers=3, slots=4, durable=False, replace=replace) as fleet:
        both = Both(fleet, session, len(lot.deaths))
        for step in range(24):
            lot.chance = 0.1 if step % 2 else 0.0
            if step % 6 == 4 or len(fleet.workers) == 1:
                fleet.add_worker()
            elif step % 6 == 5 and len(fleet.workers) > 2:
                name = lot.random.choice([*fleet.workers])
                fleet.remove_worker(name)
                assert name not in fleet.workers
            else:
                both.read()
            lot.chance = 0.0
            both.compare()
        assert len(lot.deaths) > 3
        assert {path.name for path in folder.glob("*-*")} == fleet.workers.keys()
    both.fleet = Fleet(bundle, folder, workers=2, slots=4, durable=False)
    both.compare()
    both.read()
    both.compare()
