"""A site whose only view does with the visitor's store what a test hands it, and browsers that visit it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from typing import Any

import apsw
import pytest
from flask import Flask, g, request
from werkzeug.test import create_environ, run_wsgi_app

from flask_dash_store import UserStore, UserStoreMiddleware, user_store

SECRET = "0123456789abcdef0123456789abcdef"
TTL = 1000.0
LIFETIME = 5000.0

Use = Callable[[UserStore], Any]


def answer_of(app: Flask, environ: dict[str, Any]) -> tuple[int, list[str]]:
    """The status of an app's response, and its cookies."""
    _, status, headers = run_wsgi_app(app, environ, True)
    return int(status[:3]), headers.getlist("Set-Cookie")


class Site:
    """One worker of an app, and its database seen from beside.

    :param folder: where the database is; several workers may share it
    :param secrets: the current one first
    """

    def __init__(
        self, clock: Callable[[], float], folder: Path, secrets: Sequence[str] = (SECRET,), **options: Any
    ) -> None:
        file = folder / "store.sqlite"
        settings = {"url": f"sqlite:///{file}", "ttl": TTL, "lifetime": LIFETIME, "cookie_eager": True} | options
        self.middleware = self._install(secrets, clock=clock, **settings)
        self.storage = self.middleware.opened().storage
        self.database = apsw.Connection(str(file))

    def _install(self, secrets: Sequence[str], **options: Any) -> UserStoreMiddleware:
        self.app = Flask("site")
        self.app.config.update(SECRET_KEY=secrets[0], SECRET_KEY_FALLBACKS=secrets[1:], TESTING=True)
        self.app.add_url_rule("/<path:path>", "any", self._view, methods=["GET", "POST"])
        return UserStoreMiddleware(self.app, **options)

    def answer(self, environ: dict[str, Any]) -> tuple[int, list[str]]:
        """The status of the response, and its cookies."""
        return answer_of(self.app, environ)

    def _view(self, path: str) -> str:
        request.environ["test.result"].append(request.environ["test.use"](g.user_store))
        return "ok"

    def stored_expiries(self) -> list[Any]:
        return [value for (value,) in self.database.execute('SELECT value FROM "sessions"')]


class AsgiSite(Site):
    """The same as an ASGI app, which is called from an event loop."""

    def _install(self, secrets: Sequence[str], **options: Any) -> UserStoreMiddleware:
        return UserStoreMiddleware(serve, secret_key=secrets[0], secret_key_fallbacks=secrets[1:], **options)

    def answer(self, environ: dict[str, Any]) -> tuple[int, list[str]]:
        with ThreadPoolExecutor(1) as thread:  # A visit may be made while another one of this thread is answered.
            return thread.submit(asyncio.run, self._answer(environ)).result()

    async def _answer(self, environ: dict[str, Any]) -> tuple[int, list[str]]:
        response: list[Any] = []

        async def send(message: Any) -> None:
            response.append(message)

        headers = [
            (name[5:].lower().replace("_", "-").encode(), value.encode("latin-1"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        ]
        scope = {
            "type": "http",
            "scheme": environ["wsgi.url_scheme"],
            "method": environ["REQUEST_METHOD"],
            "path": environ["SCRIPT_NAME"] + environ["PATH_INFO"],
            "root_path": environ["SCRIPT_NAME"],
            "query_string": environ["QUERY_STRING"].encode(),
            "headers": headers,
            "test": environ,
        }
        await self.middleware(scope, never, send)
        cookies = [value.decode() for name, value in response[0]["headers"] if name == b"set-cookie"]
        return response[0]["status"], cookies


async def never() -> Any:
    """What an app receives that asks for a body."""
    raise AssertionError("There is no body.")


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """The app of an AsgiSite."""
    environ = scope["test"]
    environ["test.result"].append(environ["test.use"](user_store))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


SITES = [pytest.param(Site, id="wsgi"), pytest.param(AsgiSite, id="asgi")]


def nothing(store: UserStore) -> None:
    pass


def write(store: UserStore) -> None:
    store["name"] = "Ada"


def read(store: UserStore) -> Any:
    return store.get("name")


class Browser:
    """Sends the cookie that it was given last, and counts how many it was given."""

    def __init__(self, site: Site, cookie: str = "") -> None:
        self.site = site
        self.cookie = cookie
        self.cookies_received = 0
        self.status = 0

    def visit(self, use: Use = nothing, path: str = "/page", method: str = "GET", **environ: Any) -> Any:
        """What ``use`` returns in the view that handles the request.

        ``status`` is what the response had. What the view raised, Flask has answered, or it is raised here.
        """
        result: list[Any] = []
        environ |= {"HTTP_COOKIE": self.cookie, "test.use": use, "test.result": result}
        # In a context of its own, as on a server, though it may come while another request is handled.
        self.status, cookies = Context().run(self.site.answer, create_environ(path, method=method) | environ)
        for cookie in cookies:
            self.cookie = cookie.partition(";")[0]
            self.cookies_received += 1
        return result[0] if result else None

    def in_flight(self, site: Site | None = None) -> Browser:
        """Another that sends the cookie which this browser has now: its own parallel requests, or a thief."""
        return Browser(site or self.site, self.cookie)

    @property
    def id(self) -> str:
        return self.cookie.partition("=")[2].partition(".")[0]
