"""A process that serves users is killed by SIGKILL: what it had promised is in the store."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.serving.conftest import Alone, stored

from dst.runtime import Session

USERS = 12
SERVER = """
import asyncio, os, sys, time

from dst.runtime import Session, StateStore
from dst.runtime.serving import AsyncScheduler, seats

bundle, path, save_every_s, cached, users = sys.argv[1:]
work = seats.Seats.work

def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())

def watched(self, turns, undo, save_from):
    work(self, turns, undo, save_from)
    if save_from is not None:
        say("stored", save_from)

seats.Seats.work = watched

async def user(scheduler, name):
    for update in range(100_000):
        await scheduler.advance(name, b"%d:%b " % (update, name.encode()), flush=update % 2 == 0)
        say("answered", name, time.monotonic())

async def main():
    session = Session.open(bundle, lowering="fused")
    with StateStore(path, history_bytes=0) as store:
        scheduler = AsyncScheduler(
            session, 4, store, save_every_s=float(save_every_s), cached=int(cached)
        )
        await asyncio.gather(*(user(scheduler, f"user-{n}") for n in range(int(users))))

asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("save_every_s", "cached"), [(0, 0), (0, 5), (0.02, 0), (0.02, 20)])
def test_what_was_promised_is_there_after_a_kill(
    served: Session, shelf: Path, tmp_path: Path, save_every_s: float, cached: int, seed: int
) -> None:
    """An answer is kept, or with `save_every_s` all those from before what was last due."""
    path = tmp_path / "a.db"
    given = (shelf / "text", path, save_every_s, cached, USERS)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, *map(str, given)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    lines: list[str] = []
    times = 0
    left = int(np.random.default_rng(seed).integers(20 * USERS, 40 * USERS))
    while left:  # answers, after states were stored three times
        lines.append(server.stdout.readline().strip())
        assert lines[-1], "the server has ended"
        times += lines[-1].startswith("stored")
        # without a cache, a busy machine stores states as users lose their slots: none is due
        left -= lines[-1].startswith("answered") and (times >= 3 or not save_every_s or not cached)
    server.send_signal(signal.SIGKILL)
    lines += server.stdout.read().split("\n")[:-1]
    assert server.wait() == -signal.SIGKILL
    said = [line.split() for line in lines]
    stored_from = max([float(words[1]) for words in said if words[0] == "stored"], default=0.0)
    answered = [(words[1], float(words[2])) for words in said if words[0] == "answered"]
    promised = [name for name, at in answered if save_every_s == 0 or at <= stored_from]
    found = stored(path)
    alone = Alone(served)
    for name in (f"user-{n}" for n in range(USERS)):
        states: list[bytes | None] = [None]
        for update in range(sum(who == name for who, _ in answered) + 1):  # one was under way
            alone.advance(name, b"%d:%b " % (update, name.encode()), update % 2 == 0)
            states.append(alone.packed(name))
        assert found.get(name) in states[promised.count(name) :], name
    assert len(found) == USERS
