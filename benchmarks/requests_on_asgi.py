"""Requests on ASGI, in process

One event loop calls a Starlette app as an ASGI server does, from the scope to the last message of the response. The
views are the same everywhere: one that does not touch the visitor's values, one that reads a key, one that reads and
writes it. Starlette's own session is its SessionMiddleware: all values in one signed cookie, which each response that
has a session sends again.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flask_dash_store import UserStoreMiddleware, user_store

from .bench import Bench
from .measure import SecondsPerCall, ratio
from .peers import SECRET_KEY, sqlite_url
from .requests_in_process import KINDS
from .results import Findings, Table

BATCH = 100  # requests in one call of the event loop, so that starting it costs them nothing
COOKIE_BYTES = 88

BARE, OURS, SESSION = "bare Starlette", "flask_dash_store", "Starlette's cookie session"

Values = Callable[[Request], Any]


def _app(values: Values, middleware: list[Middleware] | None = None) -> Starlette:
    async def untouched(_: Request) -> PlainTextResponse:
        return PlainTextResponse("0")

    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(values(request).get("n", 0)))

    async def write(request: Request) -> PlainTextResponse:
        mine = values(request)
        mine["n"] = n = mine.get("n", 0) + 1
        return PlainTextResponse(str(n))

    return Starlette(
        routes=[Route(f"/{view.__name__}", view) for view in (untouched, read, write)], middleware=middleware
    )


def _bare(_: Path) -> Starlette:
    return _app(lambda request: {})


def _ours(folder: Path) -> Starlette:
    app = _app(lambda request: user_store)
    UserStoreMiddleware(app, secret_key=SECRET_KEY, url=sqlite_url(folder))  # type: ignore[arg-type]
    return app


def _session(_: Path) -> Starlette:
    return _app(lambda request: request.session, [Middleware(SessionMiddleware, secret_key=SECRET_KEY)])


APPS: dict[str, Callable[[Path], Starlette]] = {BARE: _bare, OURS: _ours, SESSION: _session}


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _request(app: Starlette, path: str, cookie: bytes) -> list[Any]:
    """The messages of a response."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"user-agent", b"Mozilla/5.0"), (b"accept", b"*/*"), (b"cookie", cookie)]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, _receive, send)
    if sent[0]["status"] != 200:
        raise RuntimeError(f"{path} was answered with {sent[0]['status']}")
    return sent


async def _cookie(app: Starlette) -> bytes:
    """The cookie of a visitor; one of the same length for an app that sets none."""
    start, *_ = await _request(app, "/write", b"")
    for name, value in start["headers"]:
        if name == b"set-cookie":
            return bytes(value.partition(b";")[0])
    return b"visitor=" + secrets.token_urlsafe(COOKIE_BYTES).encode()


def measure(bench: Bench) -> Findings:
    block, subjects = bench.choose(0.02, 0.05), {}
    apps = bench.opened(APPS)
    with asyncio.Runner() as loop:
        for name, app in apps.items():
            cookie = loop.run(_cookie(app))
            for kind in KINDS:
                subjects[name, kind] = _seconds(
                    loop, lambda app=app, kind=kind, cookie=cookie: _batch(app, kind, cookie), block
                )
        outcomes = bench.interleaved(subjects, bench.choose(7, 41))

    return [Table.of("A request on ASGI", "µs", KINDS, outcomes)], {
        "asgi_untouched": ratio(outcomes, (OURS, "untouched"), (BARE, "untouched")),
        "asgi_read": ratio(outcomes, (OURS, "read"), (SESSION, "read")),
        "asgi_write": ratio(outcomes, (OURS, "write"), (SESSION, "write")),
    }


async def _batch(app: Starlette, kind: str, cookie: bytes) -> None:
    for _ in range(BATCH):
        await _request(app, f"/{kind}", cookie)


def _seconds(loop: asyncio.Runner, batch: Callable[[], Coroutine[Any, Any, None]], block: float) -> Callable[[], float]:
    of_batch = SecondsPerCall(lambda: loop.run(batch()), block)
    return lambda: of_batch() / BATCH
