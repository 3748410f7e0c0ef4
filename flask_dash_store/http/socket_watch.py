"""Closes the websockets of a session that has ended, so that the browser connects again with its new cookie.

A websocket only has the cookie with which it was opened. After a login or a logout over HTTP, it would continue with a
session that is empty and cannot be written to. It cannot move to the new session: an id that was known before a login
must open nothing afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ..errors import StorageError
from ..store.internal import state_of
from ..store.user_store import UserStore
from .sessions import RequestSessions

logger = logging.getLogger("flask_dash_store")

# Seconds between two checks of whether the session has ended.
INTERVAL = 1.0

# "Service Restart" (https://www.iana.org/assignments/websocket/): the client may connect again. Dash's client does.
CLOSE_CODE = 1012

# One thread for all sockets: while a storage does not answer, each check blocks a thread for its timeout, and the
# threads of asyncio.to_thread() belong to the app.
_thread = ThreadPoolExecutor(1, "flask_dash_store-sockets")

Message = MutableMapping[str, Any]


class SocketWatch:
    """Serves one websocket.

    :param store: the store of the visitor who opened it
    """

    def __init__(self, sessions: RequestSessions, store: UserStore) -> None:
        self._sessions = sessions
        self._store = store
        self._is_closed = False
        self._watching: asyncio.Task[None] | None = None

    async def serve(
        self,
        app: Callable[..., Awaitable[None]],
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Run the app on the websocket."""

        async def watched_send(message: Message) -> None:
            if self._is_closed:  # As after any close by the server, further messages of the app are dropped.
                return
            if message["type"] == "websocket.accept":
                self._begin()
                await send(message)
                self._watching = asyncio.get_running_loop().create_task(self._watch(send))
            else:
                await send(message)

        try:
            await app(scope, receive, watched_send)
        finally:
            if self._watching is not None:
                self._watching.cancel()

    def _begin(self) -> None:
        """Use the store once before the only response that can set a cookie: for a new visitor, or a new session."""
        try:
            len(self._store)
        except StorageError as error:
            logger.warning("A websocket is accepted although its visitor's store cannot be read: %s", error)

    async def _watch(self, send: Callable[[Message], Awaitable[None]]) -> None:
        state, loop = state_of(self._store), asyncio.get_running_loop()
        while not await loop.run_in_executor(_thread, self._sessions.is_over, state):
            await asyncio.sleep(INTERVAL)
        self._is_closed = True
        with suppress(OSError, RuntimeError):  # The browser has gone in the meantime.
            await send({"type": "websocket.close", "code": CLOSE_CODE, "reason": "The session has ended."})
