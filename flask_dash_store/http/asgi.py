"""The way of a request on an ASGI server: cookie in, the visitor's store into the context, cookie out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from werkzeug.datastructures import Headers
from werkzeug.sansio.request import Request

from ..apps.adapter import Extension
from ..errors import SessionEnded
from ..storage.timeouts import note_server_loop
from ..store.internal import current_store, state_of
from ..store.session_state import SessionState, Use
from ..store.user_store import UserStore
from .sessions import RequestSessions
from .socket_watch import SocketWatch

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_VARY = (b"vary", b"Cookie")
_SCHEMES = {"ws": "http", "wss": "https"}


class Handler:
    """The ASGI middleware around one app.

    :param counts_as_use: called with a request's scope when its store is used; returns whether that keeps the session
        alive
    """

    def __init__(self, sessions: RequestSessions, counts_as_use: Callable[[Scope], bool] | None) -> None:
        self._sessions = sessions
        self._counts_as_use = counts_as_use
        self._loop: asyncio.AbstractEventLoop | None = None
        self._maintaining: asyncio.Future[None] | None = None

    async def __call__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        sessions = self._sessions
        now = sessions.clock()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            note_server_loop(loop)
        store = self.visit(scope, now)
        state = state_of(store)

        def send_with_cookie(message: Message) -> Awaitable[None]:
            if message["type"] in _HEADERS:
                message = self._with_cookie(message, state, scope)
            return send(message)

        token = current_store.set(store)
        try:
            if scope["type"] == "websocket":
                await SocketWatch(sessions, store).serve(app, scope, receive, send_with_cookie)
            else:
                await app(scope, receive, send_with_cookie)
        except SessionEnded as error:
            if state.is_answered or scope["type"] == "websocket":
                raise
            await _answer_conflict(error, send_with_cookie)
        finally:
            current_store.reset(token)
            if sessions.maintenance.is_due(now, state.use is Use.WRITTEN):
                self._maintain(loop)

    def visit(self, scope: Scope, now: float) -> UserStore:
        """The store for the request with this scope.

        :param now: seconds since the epoch
        """
        store = self._sessions.arrive(_Head(scope), now)
        counts_as_use, state = self._counts_as_use, state_of(store)
        if counts_as_use is not None and state.counts_as_use is None:
            state.counts_as_use = lambda: counts_as_use(scope)
        return store

    def _with_cookie(self, message: Message, state: SessionState, scope: Scope) -> Message:
        if state.is_untouched:
            state.is_answered = True
            return message
        issue, headers = self._sessions.issue(state), message.get("headers", ())
        if issue is None and state.use:  # This takes a tenth of the time of what follows.
            for name, _ in headers:
                if name == b"vary":
                    break
            else:
                return {**message, "headers": [*headers, _VARY]}
        decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        completed = self._sessions.complete(state, issue, decoded, _scheme(scope))
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in completed]
        return {**message, "headers": encoded}

    def _maintain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run maintenance in a thread, because it may wait for the disk."""
        if self._maintaining is None or self._maintaining.done():
            self._maintaining = loop.run_in_executor(None, self._sessions.maintenance.run)


class _Head:
    """The :class:`RequestHead` of an ASGI request. Most requests need nothing but the cookie, so the rest is lazy."""

    __slots__ = ("cookie", "raw")

    def __init__(self, scope: Scope) -> None:
        self.raw = scope
        cookie = b""
        for name, value in scope["headers"]:
            if name == b"cookie":  # HTTP/2 may send each cookie in a header of its own (RFC 9113, 8.2.3).
                cookie = cookie + b"; " + value if cookie else value
        self.cookie = cookie.decode("latin-1")

    @property
    def method(self) -> str:
        return str(self.raw.get("method", "GET"))

    @property
    def path(self) -> str:
        return _path(self.raw)

    @property
    def query(self) -> str:
        return str(self.raw["query_string"], "latin-1")

    @property
    def scheme(self) -> str:
        return _scheme(self.raw)

    def header(self, name: str) -> str | None:
        encoded = name.lower().encode("latin-1")
        return next((value.decode("latin-1") for header, value in self.raw["headers"] if header == encoded), None)


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    root = scope.get("root_path", "")
    return path[len(root) :] if root and f"{path}/".startswith(f"{root}/") else path


def _scheme(scope: Scope) -> str:
    scheme: str = scope.get("scheme", "http")
    return _SCHEMES.get(scheme, scheme)


def request_of(scope: Scope) -> Request:
    """The request that is passed to settings. Flask's request is of the same class, so they work on any server."""
    headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
    client = scope.get("client")
    return Request(
        scope.get("method", "GET"),
        _scheme(scope),
        scope.get("server"),
        scope.get("root_path", ""),
        _path(scope),
        scope["query_string"],
        headers,
        client[0] if client else None,
    )


async def _answer_conflict(error: SessionEnded, send: Send) -> None:
    """Answer with 409, as Flask does by itself with an error that derives from Werkzeug's."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": error.code, "headers": headers})
    await send({"type": "http.response.body", "body": str(error).encode()})


class Entry:
    """Wraps an ASGI app, and opens the storage with the first request.

    :param on_first_request: called with the app and the scope of that request; returns the app to serve from then on
    """

    def __init__(self, app: App, extension: Extension, on_first_request: Callable[[App, Scope], App]) -> None:
        self._app = app
        self._extension = extension
        self._on_first_request = on_first_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):  # such as lifespan
            await self._app(scope, receive, send)
            return
        if not self._extension.is_prepared:
            self._extension.prepare(lambda: self._begin(scope))
        opened = self._extension.opened
        if opened is None:
            opened = await asyncio.to_thread(self._extension.open)  # Opening may wait for the disk and other processes.
        await opened.handler(self._app, scope, receive, send)

    def _begin(self, scope: Scope) -> None:
        self._app = self._on_first_request(self._app, scope)
