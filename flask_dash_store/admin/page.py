"""``UserStoreAdmin``, which puts the admin page on an app.

The app itself answers below the page's URL, so what it does before each request, such as loading the user, is done for
these requests too. It asks ``allow``, and hands what may pass to the page's own Dash app.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Flask, Response, redirect, request
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, run_wsgi_app

from ..errors import ConfigurationError
from ..extension import OpenedExtension
from ..proxy import EXTENSION
from .access import is_let_in, protect, refusal
from .callbacks import OPENED_KEY, Page
from .own_dash import OwnDash
from .samples import Sampler
from .task_runner import TaskRunner

if TYPE_CHECKING:
    from dash import Dash

NAME = "flask_dash_store.admin"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_ROUTES_OF_DASH = re.compile(r"_dash-(?:layout|dependencies|update-component)|(?:_dash-component-suites|assets)/.+")
_URL = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9_.~-]+)+", re.ASCII)  # Browsers remove "." and "..".


class UserStoreAdmin:
    """A page that shows an operator what an app's user store holds: how much, whose, and for how long.

    It shows the keys of sessions and users, and never a session id; it ends sessions, purges, checks and backs up. It
    needs Dash, and an app on Flask with UserStoreMiddleware, which may be installed before or after::

        UserStoreAdmin(app, allow=lambda: current_user.is_authenticated and current_user.is_admin)

    :param app: a Flask app, or a Dash app on Flask
    :param url: the path of the page, without a slash at its end
    :param allow: a function without arguments that returns whether the present request may see the page. It is called
        within each request for the page, its data and its scripts. If it returns anything but True, or raises, the
        answer is 403 Forbidden. It may also call ``flask.abort``, for example to redirect to a login page.
    :param show_values: whether the page shows the values of keys, too, which may be personal data. They are shortened,
        and large ones are not read. By default False.
    :param backups: an existing folder for backups of a SQLite file. By default (None) the page makes none.
    :raises ConfigurationError: without ``allow``; if the app is not on Flask; if it has an admin page already, or has
        answered its first request; or if ``url`` or ``backups`` cannot be used
    """

    def __init__(
        self,
        app: Flask | Dash,
        url: str = "/user-store",
        *,
        allow: Callable[[], bool] | None = None,
        show_values: bool = False,
        backups: str | Path | None = None,
    ) -> None:
        server = _server_of(app)
        self._allow = server.ensure_sync(_checked_allow(allow))
        self._url = _checked_url(url)
        self._outside = _path_outside(app)
        self._app = server
        self._sampler = Sampler()
        page = Page(server.name, self._sampler, TaskRunner(_checked_folder(backups)), show_values)
        self._dash = OwnDash(f"User store · {server.name}", page.build)
        self._install()

    def _install(self) -> None:
        app = self._app
        if NAME in app.extensions:
            raise ConfigurationError(f"The app {app.name!r} has an admin page already; put UserStoreAdmin on it once.")
        options: dict[str, Any] = {"methods": METHODS, "provide_automatic_options": False}
        try:
            app.add_url_rule(self._url, f"{NAME}.without_slash", self.serve_redirect, **options)
            app.add_url_rule(f"{self._url}/", NAME, self.serve, defaults={"path": ""}, **options)
            app.add_url_rule(f"{self._url}/<path:path>", NAME, self.serve, **options)
            app.teardown_request(self._after_request)
        except AssertionError as error:
            raise ConfigurationError(
                f"The app {app.name!r} has answered its first request already; put UserStoreAdmin on it before."
            ) from error
        app.extensions[NAME] = self

    # Requests

    def serve_redirect(self) -> Response:
        return self._guarded(lambda: redirect(self._root()))

    def serve(self, path: str) -> Response:
        return self._guarded(lambda: self._answer(path))

    def _guarded(self, answer: Callable[[], Any]) -> Response:
        return protect(answer() if is_let_in(self._allow) else refusal(), self._dash.script_hashes)

    def _answer(self, path: str) -> Response:
        opened = self._opened()
        if path == "" and request.method in ("GET", "HEAD"):
            return Response(self._dash.index(self._root()), mimetype="text/html")
        if _ROUTES_OF_DASH.fullmatch(path) is None:
            return Response("Not Found", 404, mimetype="text/plain")
        return self._answer_of_dash(path, opened)

    def _answer_of_dash(self, path: str, opened: OpenedExtension) -> Response:
        """What the page's Dash app answers, which sees hardly a header of the request, and so no cookie."""
        environ = EnvironBuilder(
            f"/{path}",
            method=request.method,
            query_string=request.query_string.decode("latin-1"),
            data=request.get_data(),
            content_type=request.content_type,
            headers=Headers({"If-None-Match": request.headers.get("If-None-Match", "")}),
            environ_overrides={OPENED_KEY: opened},
        ).get_environ()
        # Dash keeps in a context variable which app has answered last. The code of the app around must not find this.
        body, status, headers = copy_context().run(run_wsgi_app, self._dash.wsgi_app, environ, buffered=True)
        return Response(body, status, headers)

    def _root(self) -> str:
        """The path under which the browser sees the page."""
        outside = quote((self._outside or request.script_root).strip("/"), safe="/")
        return f"/{outside}{self._url}/" if outside else f"{self._url}/"

    def _opened(self) -> OpenedExtension:
        stores = self._app.extensions.get(EXTENSION)
        if stores is None:
            raise ConfigurationError(
                f"The app {self._app.name!r} has an admin page, but no user store. Install UserStoreMiddleware on it: "
                "UserStoreMiddleware(app)."
            )
        opened: OpenedExtension = stores.opened(self._app)
        return opened

    def _after_request(self, _error: BaseException | None) -> None:
        """From time to time, count what there is, so that the plots know of times when no one looked at them."""
        stores = self._app.extensions.get(EXTENSION)
        opened = None if stores is None else stores.extension(self._app).opened
        if opened is not None:
            self._sampler.sample_soon(opened)


def _server_of(app: Any) -> Flask:
    server = app if isinstance(app, Flask) else getattr(app, "server", None)
    if not isinstance(server, Flask):
        raise ConfigurationError(
            f"UserStoreAdmin needs a Flask app, or a Dash app on Flask, not {type(app).__name__}"
            + ("." if server is None else f" on {type(server).__name__}.")
            + " For any other app, `python -m flask_dash_store URL stats` shows what its store holds."
        )
    return server


def _checked_allow(allow: Any) -> Callable[[], bool]:
    if not callable(allow):
        raise ConfigurationError(
            "UserStoreAdmin shows and ends the sessions of all visitors, so it needs a function that says who may see "
            "it: UserStoreAdmin(app, allow=lambda: current_user.is_authenticated and current_user.is_admin), for "
            "example, with Flask-Login."
        )
    checked: Callable[[], bool] = allow
    return checked


def _checked_url(url: Any) -> str:
    if not isinstance(url, str) or _URL.fullmatch(url) is None:
        raise ConfigurationError(
            f"url= of UserStoreAdmin cannot be {url!r}. It has to be a path such as '/user-store', which begins with a "
            "slash, does not end with one, and has no special characters."
        )
    return url


def _checked_folder(backups: str | Path | None) -> Path | None:
    folder = None if backups is None else Path(backups).absolute()
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(f"backups= of UserStoreAdmin has to be an existing folder. Create {folder} first.")
    return folder


def _path_outside(app: Any) -> str:
    """What a proxy removes from paths, as a Dash app has been told of it; "" where only the request says that."""
    if isinstance(app, Flask):
        return ""
    config = app.config
    outside: str = config.requests_pathname_prefix.removesuffix(config.routes_pathname_prefix)
    return outside
