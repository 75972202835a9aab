"""A server that remembers each of its users: HTTP, server-sent events and WebSocket.

    pip install fastapi "uvicorn[standard]"
    python examples/server/app.py --add-user ann     # prints a token, once
    python examples/server/app.py                    # serves on http://127.0.0.1:8000

Every user has one stream of the text model, kept in a store: what he sends is read on it, and
what the model makes of it depends on all that he has ever sent. The page at / tries it.

| | |
|---|---|
| POST /v1/read | read a text, answer with the most likely next bytes |
| POST /v1/generate | the same, then continue it, as server-sent events |
| GET /v1/state, DELETE /v1/state | how far the user's stream is; forget it, leaving no copy |
| WebSocket /v1/stream | first {"token": …}, then {"text": …} as often as wanted |
| GET /metrics | for Prometheus |
"""

import argparse
import json
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    StreamingResponse,
)
from guard import MAX_BODY, Guarded, RateLimit, Users, known_user
from pydantic import BaseModel, Field

from dst.runtime import DstError, Sampler, Session, StateStore
from dst.runtime.errors import DeadlineError, StoreFullError, StreamNotFoundError
from dst.runtime.serving import AsyncScheduler, BusyError, ServingError
from dst.runtime.state.sampler import Choice

MAX_TEXT = 16_384
TOP = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """Where everything is and what one user may do; from the environment, `DST_…`."""

    bundle: str = "text"
    store: str = "memory.db"
    users: str = "users.db"
    slots: int = 64
    cached: int = 0
    save_every_s: float = 0.0
    max_waiting: int = 1024
    deadline_ms: float = 30_000.0
    bytes_per_s: float = 20_000.0  # of one user, after a burst of ten seconds' worth
    max_age_days: float = 365.0

    @staticmethod
    def read() -> "Settings":
        """Take each field from the environment where it is set."""
        kinds = {name: type(default) for name, default in vars_of(Settings()).items()}
        found = {n: kind(os.environ[f"DST_{n.upper()}"]) for n, kind in kinds.items()
                 if f"DST_{n.upper()}" in os.environ}  # fmt: skip
        return Settings(**found)


def vars_of(settings: Settings) -> dict[str, Any]:
    """Return the fields by name."""
    return {name: getattr(settings, name) for name in settings.__slots__}


# --- what goes in and out


class Text(BaseModel):
    """What a user sends."""

    text: str = Field(max_length=MAX_TEXT, description="read on the user's stream, as UTF-8")


class Prompt(Text):
    """What a user sends to be continued."""

    items: int = Field(100, ge=1, le=1000, description="bytes to generate")
    temperature: float = Field(0.5, ge=0.0, le=2.0)
    seed: int | None = Field(None, ge=0, lt=2**63, description="for the same text again")


class Next(BaseModel):
    """A byte that may come next."""

    byte: int
    probability: float


class Read(BaseModel):
    """What was read, and what the model expects now."""

    bytes_read: int
    next: list[Next]


class State(BaseModel):
    """How far a user's stream is."""

    bytes: int
    state_bytes: int


class Problem(BaseModel):
    """Why something was refused."""

    detail: str
    code: str = ""


EVENT = {
    "type": "object",
    "properties": {"event": {"enum": ["message", "problem", "end"]}, "data": {"type": "string"}},
    "required": ["data"],
}
SETTINGS = Settings.read()
RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the body is no JSON in UTF-8"},
    401: {"model": Problem, "description": "no token, or one that nobody has"},
    413: {"model": Problem, "description": "the body is too long"},
    429: {"model": Problem, "description": "too much of this user, or too many of his requests"},
    503: {"model": Problem, "description": "too many requests in all, or the server is ending"},
    504: {"model": Problem, "description": "the deadline passed; nothing was read"},
    507: {"model": Problem, "description": "the disk is full; nothing was read"},
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open everything; at the end answer what waits, and store every state."""
    session = Session.open(SETTINGS.bundle, lowering="fused")
    with StateStore(
        SETTINGS.store, history_bytes=0, max_age_s=SETTINGS.max_age_days * 86_400
    ) as store:
        scheduler = AsyncScheduler(
            session, SETTINGS.slots, store,
            save_every_s=SETTINGS.save_every_s, cached=SETTINGS.cached,
            max_waiting=SETTINGS.max_waiting,
        )  # fmt: skip
        async with scheduler:
            await scheduler.warm_up()
            app.state.scheduler, app.state.users = scheduler, Users(SETTINGS.users)
            app.state.limit = RateLimit(SETTINGS.bytes_per_s)
            app.state.wipes = Counter()
            print("ready", flush=True)
            yield


app = FastAPI(title="A server with a memory", version="1", lifespan=lifespan)
app.router.route_class = Guarded


@app.exception_handler(RequestValidationError)
async def not_understood(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what does not fit, without what came: JSON cannot hold all of that."""
    kept = ("loc", "msg", "type")
    return JSONResponse({"detail": [{k: e[k] for k in kept} for e in error.errors()]}, 422)


@app.exception_handler(DstError)
async def refused(request: Request, error: DstError) -> JSONResponse:
    """Say what went wrong, with the status that fits it."""
    retry = {"Retry-After": "1"}
    if isinstance(error, BusyError) and error.code == "user-busy":
        return JSONResponse({"detail": str(error), "code": error.code}, 429, retry)
    if isinstance(error, ServingError):
        return JSONResponse({"detail": str(error), "code": error.code}, 503, retry)
    status = 500
    for kind, code in ((DeadlineError, 504), (StoreFullError, 507), (StreamNotFoundError, 404)):
        if isinstance(error, kind):
            status = code
    return JSONResponse({"detail": str(error), "code": error.code}, status)


User = Annotated[str, Depends(known_user)]


async def read(user: str, text: str) -> Read:
    """Read a text on a user's stream."""
    data = text.encode(errors="replace")
    app.state.limit.take(user, len(data))
    if not data:
        return Read(bytes_read=0, next=[])
    outputs = await app.state.scheduler.advance(
        user, data, flush=True, last=True, outputs=["logits"], deadline_ms=SETTINGS.deadline_ms
    )
    logits = outputs["logits"][0, -1].astype(np.float64)
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    best = np.argsort(-chances, kind="stable")[:TOP]
    return Read(
        bytes_read=len(data),
        next=[Next(byte=int(b), probability=round(float(chances[b]), 6)) for b in best],
    )


@app.post("/v1/read", responses=RESPONSES)
async def read_text(user: User, body: Text) -> Read:
    """Read a text, and say what comes next."""
    return await read(user, body.text)


@app.post(
    "/v1/generate",
    responses={
        **RESPONSES,
        200: {"content": {"text/event-stream": {"schema": EVENT}}},
    },
    response_class=StreamingResponse,
)
async def generate(user: User, body: Prompt) -> StreamingResponse:
    """Read a text and continue it: one server-sent event per byte, then `event: end`.

    It ends when the user has his stream forgotten.
    """
    wipes = app.state.wipes[user]
    app.state.limit.take(user, len(body.text.encode(errors="replace")) + body.items)
    choice = Choice(body.temperature, 0, 1.0)
    sampler = Sampler.fresh() if body.seed is None else Sampler.seeded(body.seed)
    first = body.text.encode(errors="replace") or b"\n"
    outputs = await app.state.scheduler.advance(
        user, first, flush=True, last=True, deadline_ms=SETTINGS.deadline_ms
    )

    async def events() -> AsyncIterator[str]:
        nonlocal outputs, sampler
        for _ in range(body.items):
            token, sampler = choice.pick(outputs["logits"][0, -1].astype(np.float64), sampler)
            yield f"data: {json.dumps({'byte': token})}\n\n"
            if app.state.wipes[user] != wipes:  # asked just before the scheduler is
                problem = {"detail": "the stream was forgotten meanwhile"}
                yield f"event: problem\ndata: {json.dumps(problem)}\n\n"
                return
            try:
                outputs = await app.state.scheduler.advance(
                    user, np.array([token]), flush=True, last=True,
                    deadline_ms=SETTINGS.deadline_ms,
                )  # fmt: skip
            except DstError as error:
                yield f"event: problem\ndata: {json.dumps({'detail': str(error)})}\n\n"
                return
        yield "event: end\ndata: {}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/v1/state", responses={**RESPONSES, 404: {"model": Problem}})
async def state(user: User) -> State:
    """Say how far the user's stream is."""
    saved = await app.state.scheduler.get(user)
    return State(bytes=saved.items_consumed + len(saved.pending), state_bytes=len(saved.to_bytes()))


@app.delete("/v1/state", responses=RESPONSES, status_code=204)
async def wipe(user: User) -> None:
    """Forget all that the user has sent; no copy stays in the files."""
    app.state.wipes[user] += 1
    await app.state.scheduler.delete(user, erase=True)


@app.websocket("/v1/stream")
async def stream(socket: WebSocket) -> None:
    """Read texts as they come: {"token": …} first, then {"text": …}; each is answered."""
    await socket.accept()
    with suppress(WebSocketDisconnect):
        user = None
        while True:
            try:
                message = json.loads(await socket.receive_text())
                if user is None:
                    user = app.state.users.name_of(str(message["token"]))
                    if user is None:
                        await socket.close(4401, "no such token")
                        return
                    await socket.send_json({"user": user})
                    continue
                answer = await read(user, Text(text=message["text"]).text)
                await socket.send_text(answer.model_dump_json())
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                await socket.send_json({"detail": f"not understood: {error!r:.200}"})
            except HTTPException as error:
                await socket.send_json({"detail": error.detail})
            except DstError as error:
                await socket.send_json({"detail": str(error), "code": error.code})


@app.get("/metrics", response_class=PlainTextResponse)
async def metrics() -> str:
    """Return the metrics of the scheduler, for Prometheus."""
    return str(app.state.scheduler.metrics_text())


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page to try it."""
    return FileResponse(Path(__file__).with_name("page.html"))


def main() -> int:
    """Serve, or make a user."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Settings, from the environment, with what they are now:\n"
        + "\n".join(
            f"  DST_{name.upper()}={value}" for name, value in vars_of(SETTINGS).items()
        ).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--add-user", metavar="NAME", nargs="+", help="print a token for each")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    if asked.add_user:
        try:
            print(*Users(SETTINGS.users).add(*asked.add_user), sep="\n")
        except sqlite3.IntegrityError:
            parser.error("one of these users has a token already; nobody was added")
        return 0
    print(f"opening the model {SETTINGS.bundle}", flush=True)
    # The event loop and the scheduler's thread take turns in Python. The thread gives its turn away
    # at each call of SQLite, and by default would then wait 5 ms whenever the loop is busy.
    sys.setswitchinterval(0.0005)
    uvicorn.run(
        app, host=asked.host, port=asked.port, log_level="warning", access_log=False,
        ws_max_size=MAX_BODY,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
