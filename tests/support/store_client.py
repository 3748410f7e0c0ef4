"""A worker of an app, in a process of its own: it does with stores what it is told, and can be killed at any access."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from store_model import TTL, Deed, Outcome, attempt
from visits import Browser, Site

USER = "a user"
LIFETIME = 10**9
TIMEOUT = 60

# Processes are forked from one that has done nothing but import what takes long, so that they start in milliseconds.
context = get_context("forkserver")
context.set_forkserver_preload(["pytest", "flask_dash_store.middleware", "werkzeug.test"])


class Client:
    """:param clock: a number that all clients share"""

    def __init__(self, folder: Path, clock: Any) -> None:
        self._folder, self._clock = folder, clock
        self._start()

    def _start(self) -> None:
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._folder, self._clock), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, cookie: str, deed: Deed) -> None:
        """Have it do a deed with the store of a cookie, or of the user."""
        self._connection.send((cookie, deed))

    def end(self) -> tuple[Outcome, str]:
        """What came of the deed, and the cookie that the visitor has now.

        :raises EOFError: when the process has died before it could say so
        """
        assert self._connection.poll(TIMEOUT), "a client hangs"
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def do(self, cookie: str, deed: Deed) -> tuple[Outcome, str]:
        self.begin(cookie, deed)
        return self.end()

    def has_answered_within(self, seconds: float) -> bool:
        return self._connection.poll(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()

    def restart(self) -> None:
        """Kill it, if it lives, and start another in its place."""
        self.kill()
        self._start()


def _serve(connection: Connection, folder: Path, clock: Any) -> None:
    site = Site(lambda: clock.value, folder, ttl=TTL, lifetime=LIFETIME, timeout=TIMEOUT)
    with suppress(EOFError, OSError):  # the tests have ended
        while True:
            connection.send(_answer(site, *connection.recv()))


def _answer(site: Site, cookie: str, deed: Deed) -> Any:
    try:
        return _do(site, cookie, deed)
    except Exception as error:
        return error


def _do(site: Site, cookie: str, deed: Deed) -> Any:
    if deed == ("purge",):
        return site.middleware.purge(), cookie
    if cookie == USER:
        return attempt(site.middleware.for_user(USER, ttl=TTL), deed), cookie
    browser = Browser(site, cookie)
    use: Callable[..., Outcome] = lambda store: attempt(store, deed)  # noqa: E731
    return browser.visit(use), browser.cookie
