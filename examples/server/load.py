"""Load the server of `app.py` with many users, kill it on the way, and check every update.

    pip install aiohttp
    python examples/server/load.py --minutes 10 --sigterm --sigkill

Starts the server, makes users, and lets 64 of 1,000 at a time send a text and wait for an answer.
With `--sigterm` and `--sigkill` the server gets these signals after a third and after two thirds
of the time, and is started again; the time that it is away is not counted. At the end it is
stopped, and each user's state in the store must be, bit for bit, that of a stream that has read the
texts acknowledged to him, alone.

An update that was under way when the server was killed may be there or not; what was acknowledged
must be. With `--save-every-s` above 0 what was answered in that time before SIGKILL may be
missing, and the figure `lost_s` says how old the oldest missing update was; then all users go on
from what is there.

Printed: answers, throughput, latencies at the client and in the scheduler; what the same text
takes without any server, alone (taken all along) and in a batch of all slots (taken before);
memory; and what was lost or mixed. Exit code 1 where an update was lost or mixed, or is missing
that was older than the bound (and a second, for the machine is busy), or where memory grew by more
than 10 % after the first fifth of the time that the last server ran.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from dst.runtime import Saved, Session, StateStore, StreamPool
from dst.runtime.state.record import pack

HERE = Path(__file__).parent
BYTES = 16


def text_of(user: int, number: int) -> str:
    """What a user sends at his update `number`: letters, so that a byte is a character."""
    letters = np.random.default_rng((user, number)).integers(97, 123, BYTES)
    return letters.astype(np.uint8).tobytes().decode()


class Alone:
    """Streams that nobody disturbs."""

    def __init__(self, session: Session) -> None:
        self._pool = StreamPool(session, 2)

    def after(self, user: int, count: int) -> bytes:
        """Return the state of a user after his first `count` updates."""
        self._pool.reset(0)
        for number in range(count):
            self._pool.advance({0: text_of(user, number).encode()}, flush=[0])
        return pack(self._pool.swap_out(0))


def updates_in(saved: Saved) -> int:
    """Count the updates that a state has read."""
    return (saved.items_consumed + len(saved.pending)) // BYTES


class Server:
    """The server as a process."""

    def __init__(self, folder: Path, settings: dict[str, str], port: int) -> None:
        self._env = {**os.environ, **{f"DST_{name.upper()}": v for name, v in settings.items()}}
        self._folder, self.port = folder, port
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *words: str) -> str:
        """Run the script for something else."""
        return subprocess.run(
            [sys.executable, HERE / "app.py", *words],
            cwd=self._folder, env=self._env, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, HERE / "app.py", "--port", str(self.port)],
            cwd=self._folder, env=self._env, stdout=sys.stderr,  # ours is for the figures
        )  # fmt: skip
        while True:
            try:
                await self.metrics()
                return
            except aiohttp.ClientError:
                if self.process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                await asyncio.sleep(0.1)

    async def metrics(self) -> dict[str, float]:
        """Return what /metrics says, by name."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        async with aiohttp.ClientSession() as client, client.get(url) as answer:
            lines = (await answer.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def rss_mib(self) -> float:
        """Return what the process has in memory."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024


class Load:
    """All users, what was acknowledged to each, and how long it took."""

    def __init__(self, server: Server, tokens: list[str], concurrent: int) -> None:
        self.server, self.tokens = server, tokens
        self.acknowledged = [0] * len(tokens)
        self.when: list[list[float]] = [[] for _ in tokens]  # of each acknowledged update
        self.under_way: set[int] = set()
        self.latencies: list[float] = []
        self.refused: dict[str, int] = {}
        self.open = asyncio.Event()
        self.end = 0.0
        self._free = asyncio.Semaphore(concurrent)
        self._client = aiohttp.ClientSession(
            f"http://127.0.0.1:{server.port}",
            timeout=aiohttp.ClientTimeout(60),
            connector=aiohttp.TCPConnector(limit=concurrent),
        )

    async def user(self, number: int) -> None:
        """One user: send, wait, think for as long as it takes to be his turn again."""
        headers = {"Authorization": f"Bearer {self.tokens[number]}"}
        while True:
            await self.open.wait()
            async with self._free:
                if not self.open.is_set():
                    continue
                if time.monotonic() > self.end:
                    return
                body = {"text": text_of(number, self.acknowledged[number])}
                since = time.monotonic()
                self.under_way.add(number)
                try:
                    async with self._client.post("/v1/read", json=body, headers=headers) as answer:
                        status, said = answer.status, await answer.json()
                except (aiohttp.ClientError, TimeoutError):
                    self.count("connection")
                    await asyncio.sleep(0.05)
                    continue  # under way: whether it was read is looked up when the server is down
                self.under_way.discard(number)
                if status == 200 and said["bytes_read"] == BYTES:
                    self.acknowledged[number] += 1
                    self.when[number].append(time.monotonic())
                    self.latencies.append(time.monotonic() - since)
                else:
                    self.count(str(status))
                    await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self._client.close()

    def count(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1

    async def stop(self, number: signal.Signals, path: Path) -> dict[str, Any]:
        """End the server by a signal, and compare the store with what was acknowledged."""
        process = self.server.process
        assert process is not None
        killed_at = time.monotonic()
        process.send_signal(number)
        if number == signal.SIGKILL:
            self.open.clear()
        await asyncio.to_thread(process.wait)
        self.open.clear()
        await asyncio.sleep(1)  # every request has failed now
        lost, extra, oldest = 0, 0, 0.0
        with StateStore(path, history_bytes=0) as store:
            there = {entry.name: updates_in(store.get(entry.name)) for entry in store.list()}
        for user, count in enumerate(self.acknowledged):
            found = there.get(f"user {user}", 0)
            if found < count:
                lost += count - found
                oldest = max(oldest, killed_at - self.when[user][found])
            elif found > count:
                extra += 1
                if user not in self.under_way or found > count + 1:
                    raise SystemExit(f"user {user} has {found} updates, {count} were acknowledged")
            self.acknowledged[user] = found
            self.when[user] = self.when[user][:found] + [killed_at] * (found - count)
        self.under_way.clear()
        return {
            "signal": number.name,
            "acknowledged_and_missing": lost,
            "under_way_and_there": extra,
            "lost_s": round(oldest, 2),
            "exit_code": process.returncode,
        }


async def single_steps(session: Session, times: list[float], stop: asyncio.Event) -> None:
    """Time one stream on one text now and then, beside the load."""
    stream = session.stream()
    data = text_of(0, 0).encode()
    while not stop.is_set():
        since = time.perf_counter()
        stream.advance(data)
        stream.flush(last=True)
        times.append(time.perf_counter() - since)
        await asyncio.sleep(0.5)


def batched_step(session: Session, slots: int) -> float:
    """Time the same text on all slots of a pool at once."""
    pool, times = StreamPool(session, slots), []
    for _ in range(60):
        since = time.perf_counter()
        pool.advance(
            dict.fromkeys(range(slots), text_of(0, 0).encode()), last=True, flush=range(slots)
        )
        times.append(time.perf_counter() - since)
    return float(np.median(times[10:]))


async def run(asked: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], bool]:
    """Run the load and judge it."""
    settings = {
        "bundle": str(asked.bundle), "store": "memory.db", "users": "users.db",
        "slots": str(asked.slots), "save_every_s": str(asked.save_every_s),
        "cached": str(asked.cached),
    }  # fmt: skip
    server = Server(folder, settings, asked.port)
    tokens = server.run("--add-user", *(f"user {n}" for n in range(asked.users))).split()
    session = Session.open(asked.bundle, lowering="fused")
    batch = batched_step(session, asked.slots)
    await server.start()
    load = Load(server, tokens, asked.concurrent)
    load.open.set()
    seconds = asked.minutes * 60
    load.end = time.monotonic() + seconds
    steps: list[float] = []
    over = asyncio.Event()
    probe = asyncio.create_task(single_steps(session, steps, over))
    users = [asyncio.create_task(load.user(n)) for n in range(asked.users)]
    stops: list[dict[str, Any]] = []
    rss: list[float] = []
    due = [(signal.SIGTERM, 1 / 3)] if asked.sigterm else []
    due += [(signal.SIGKILL, 2 / 3)] if asked.sigkill else []
    while (left := load.end - time.monotonic()) > 0 or due:
        await asyncio.sleep(1)
        rss.append(server.rss_mib())
        if due and left <= (1 - due[0][1]) * seconds:
            stops.append(await load.stop(due.pop(0)[0], folder / "memory.db"))
            await server.start()
            load.end = time.monotonic() + left
            rss.clear()
            load.open.set()
    await asyncio.gather(*users)
    over.set()
    await probe
    metrics = await server.metrics()
    await load.close()
    stops.append(await load.stop(signal.SIGTERM, folder / "memory.db"))
    alone = Alone(session)
    with StateStore(folder / "memory.db", history_bytes=0) as store:
        used = store.used_bytes()
        mixed = sum(
            alone.after(user, count) != pack(store.get(f"user {user}"))
            for user, count in enumerate(load.acknowledged)
            if count
        )
    part = len(rss) // 5
    growth = max(rss[part:]) / rss[part] - 1 if len(rss) > 5 else 0.0
    single = float(np.median(steps))
    p50, p99 = (metrics[f'dst_serving_latency_seconds{{quantile="{q}"}}'] for q in (0.5, 0.99))
    client = [float(np.quantile(load.latencies, q)) for q in (0.5, 0.99)]
    figures = {
        "users": asked.users, "concurrent": asked.concurrent, "minutes": asked.minutes,
        "save_every_s": asked.save_every_s, "cached": asked.cached, "answers": len(load.latencies),
        "answers_per_s": round(len(load.latencies) / (asked.minutes * 60), 1),
        "users_served": sum(count > 0 for count in load.acknowledged),
        "refused": load.refused, "stops": stops, "states_that_differ": mixed,
        "client_p50_ms": round(client[0] * 1e3, 1),
        "client_p99_ms": round(client[1] * 1e3, 1),
        "scheduler_p50_ms": round(p50 * 1e3, 1),
        "scheduler_p99_ms": round(p99 * 1e3, 1),
        "single_step_ms": round(single * 1e3, 2),
        "single_step_p99_ms": round(float(np.quantile(steps, 0.99)) * 1e3, 2),
        "batched_step_ms": round(batch * 1e3, 2),
        "scheduler_p99_over_batched_step": round(p99 / batch, 1),
        "client_p99_over_batched_step": round(client[1] / batch, 1),
        "batch_fill": metrics["dst_serving_batch_fill"],
        "rss_mib": [round(rss[part], 1), round(max(rss[part:]), 1)] if rss else [],
        "store_mib": round(used / 2**20, 1),
    }  # fmt: skip
    bound = asked.save_every_s + 1 if asked.save_every_s else 0
    fine = all(stop["lost_s"] <= (bound if stop["signal"] == "SIGKILL" else 0) for stop in stops)
    return figures, fine and mixed == 0 and growth <= 0.1


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", default="text", type=lambda p: str(Path(p).absolute())
                        if Path(p).exists() else p)  # fmt: skip
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=64)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--cached", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--save-every-s", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--sigterm", action="store_true")
    parser.add_argument("--sigkill", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, passed = asyncio.run(run(asked, Path(folder)))
    print(json.dumps({**figures, "passed": passed}, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
