"""A site whose only view does with the visitor's store what a test hands it, and browsers that visit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any

import apsw
from flask import Flask, g, request
from werkzeug.test import create_environ, run_wsgi_app

from flask_dash_store import UserStore, UserStoreMiddleware

SECRET = "0123456789abcdef0123456789abcdef"
TTL = 1000.0
LIFETIME = 5000.0

Use = Callable[[UserStore], Any]


class Site:
    """One worker of an app, and its database seen from beside.

    :param folder: where the database is; several workers may share it
    :param secrets: the current one first
    """

    def __init__(
        self, clock: Callable[[], float], folder: Path, secrets: Sequence[str] = (SECRET,), **options: Any
    ) -> None:
        file = folder / "store.sqlite"
        self.app = Flask("site")
        self.app.config.update(SECRET_KEY=secrets[0], SECRET_KEY_FALLBACKS=secrets[1:], TESTING=True)
        settings = {"url": f"sqlite:///{file}", "ttl": TTL, "lifetime": LIFETIME, "cookie_eager": True} | options
        self.middleware = UserStoreMiddleware(self.app, clock=clock, **settings)
        self.storage = self.middleware.opened().storage
        self.app.add_url_rule("/<path:path>", "any", self._view, methods=["GET", "POST"])
        self.database = apsw.Connection(str(file))

    def _view(self, path: str) -> str:
        request.environ["test.result"].append(request.environ["test.use"](g.user_store))
        return "ok"

    def stored_expiries(self) -> list[Any]:
        return [value for (value,) in self.database.execute('SELECT value FROM "sessions"')]


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
        _, status, headers = Context().run(
            run_wsgi_app, self.site.app, create_environ(path, method=method) | environ, True
        )
        self.status = int(status[:3])
        for cookie in headers.getlist("Set-Cookie"):
            self.cookie = cookie.partition(";")[0]
            self.cookies_received += 1
        return result[0] if result else None

    def in_flight(self, site: Site | None = None) -> Browser:
        """Another that sends the cookie which this browser has now: its own parallel requests, or a thief."""
        return Browser(site or self.site, self.cookie)

    @property
    def id(self) -> str:
        return self.cookie.partition("=")[2].partition(".")[0]
