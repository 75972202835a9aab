"""Who may ask, and how much: users by their tokens, a rate for each, a bound for bodies."""

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

MAX_BODY = 262_144  # bytes: the longest text, each character twice \uXXXX, and some more


class Users:
    """Users by the hash of their token; a token itself is nowhere kept."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS users (token BLOB PRIMARY KEY, name TEXT UNIQUE NOT NULL)"
        )
        self._known: dict[bytes, str] = {}

    def add(self, *names: str) -> list[str]:
        """Make users, and return a token for each."""
        tokens = [secrets.token_urlsafe(32) for _ in names]
        with self._database:
            self._database.executemany(
                "INSERT INTO users VALUES (?, ?)",
                [(_hash(token), name) for token, name in zip(tokens, names, strict=True)],
            )
        return tokens

    def name_of(self, token: str) -> str | None:
        """Return whose token this is."""
        hashed = _hash(token)
        if hashed not in self._known:
            row = self._database.execute("SELECT name FROM users WHERE token = ?", (hashed,))
            if (found := row.fetchone()) is None:
                return None
            self._known[hashed] = found[0]
        return self._known[hashed]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


class RateLimit:
    """A bucket of bytes per user, which fills at a steady rate."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate, self._burst = bytes_per_s, 10 * bytes_per_s
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, user: str, count: int) -> None:
        """Take `count` bytes, or say when there will be enough: 429."""
        now = time.monotonic()
        left, since = self._buckets.get(user, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate) - count
        if left < 0:
            raise HTTPException(
                429, "too much at once; slow down", {"Retry-After": f"{-left / self._rate:.0f}"}
            )
        if len(self._buckets) > 100_000:  # full buckets say nothing
            self._buckets = {}
        self._buckets[user] = (left, now)


BEARER = HTTPBearer(auto_error=False)
Token = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


async def known_user(request: Request, token: Token) -> str:
    """Return the user whose token came, or refuse."""
    name = None if token is None else request.app.state.users.name_of(token.credentials)
    if name is None:
        raise HTTPException(
            401, "send a token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
        )
    return str(name)


class Guarded(APIRoute):
    """Asks for the token before the body is read, and reads no more than a text can take."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            if self.path.startswith("/v1/"):
                await known_user(request, await BEARER(request))
            left = MAX_BODY

            async def receive() -> MutableMapping[str, Any]:
                nonlocal left
                message: MutableMapping[str, Any] = await request.receive()
                left -= len(message.get("body", b""))
                if left < 0:
                    raise HTTPException(413, f"a body has at most {MAX_BODY} bytes")
                return message

            return await handle(Request(request.scope, receive))

        return guarded
