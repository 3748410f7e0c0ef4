"""Installs the user store in ASGI apps: Quart, Starlette and FastAPI, a Dash app on one of these, and any other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any
from weakref import WeakSet

from flask import Flask

from ..dash.devtools import with_dev_tools
from ..dash.pages import has_dash, hide_store_from_dash_setup
from ..errors import ConfigurationError, SessionEnded
from ..http.asgi import App, Entry, Handler, Scope, request_of
from ..http.sessions import RequestSessions
from ..settings import Settings
from ..store.internal import context_with
from ..store.user_store import UserStore
from .adapter import AppAdapter, Extension, Opened
from .late_settings import COOKIES_SETTINGS, watch_changes

Secret = str | bytes

# The apps that have been changed in place.
_installed: WeakSet[Any] = WeakSet()
_running: set[asyncio.Task[Any]] = set()


class AsgiApp(AppAdapter):
    """Any ASGI app.

    :param outer: what the middleware was given: the app, or a Dash app on it
    :param app: the app
    :param secrets: the options ``secret_key`` and ``secret_key_fallbacks``
    """

    has_config = False

    def __init__(self, outer: Any, app: App, secrets: Sequence[Secret]) -> None:
        self.app = app
        self._dash = None if outer is app else outer
        self._secrets = list(secrets)
        self._host: Any = app
        self._folder = Path("instance").absolute()

    @property
    def name(self) -> str:
        return str(getattr(self.app, "title", type(self.app).__name__))

    @property
    def import_name(self) -> str:
        return self.name if self._dash is None else str(self._dash.config.name)

    @property
    def config(self) -> Mapping[str, Any]:
        # The attribute that Dash reads as well.
        secrets: list[Any] = self._secrets or [getattr(self.app, "secret_key", None)]
        return {"SECRET_KEY": secrets[0], "SECRET_KEY_FALLBACKS": secrets[1:]}

    @property
    def folder(self) -> Path:
        # The folder that Flask would choose, so that a Dash app finds its values when it moves to another server.
        return self._folder if self._dash is None else Path(Flask(self._dash.config.name).instance_path)

    def paths(self, settings: Settings) -> tuple[str, str]:  # noqa: ARG002
        if self._dash is None:
            return "/", "/"
        config = self._dash.config
        return config.requests_pathname_prefix.rstrip("/") or "/", config.routes_pathname_prefix

    @property
    def has_dash(self) -> bool:
        return has_dash(path for path, _ in self._views())

    @property
    def is_installed(self) -> bool:
        return self.app in _installed

    def install(self, middleware: Any, extension: Extension) -> None:  # noqa: ARG002
        self._entry: App = Entry(self.app, extension, self._on_first_request)

    @property
    def entry(self) -> App:
        return self._entry

    def _on_first_request(self, app: App, scope: Scope) -> App:
        """Find the app around this one, after ``app.add_middleware(UserStoreMiddleware)``, and add the dev tools."""
        self._host = scope.get("app", self.app)
        return with_dev_tools(app, self._views())

    def _views(self) -> Iterator[tuple[str, Any]]:
        """The app's views, each with its path."""
        for route in getattr(self._host, "routes", ()):
            yield getattr(route, "path", ""), getattr(route, "endpoint", None)

    def handler(self, sessions: RequestSessions, settings: Settings) -> Handler:
        setting = settings.counts_as_use
        return Handler(sessions, None if setting is None else lambda scope: bool(setting(request_of(scope))))

    def starts_session(self, setting: Callable[[Any], bool] | None) -> Callable[[Any], bool] | None:
        return None if setting is None else lambda scope: bool(setting(request_of(scope)))

    def apply(self, settings: Settings) -> None:
        if settings.flask_session:
            raise ConfigurationError(
                "flask_session=True needs flask.session, which an ASGI app does not have. Leave it out, and use "
                "user_store."
            )

    def on_first_open(self, extension: Extension, opened: Opened, empty_store: Callable[[], UserStore]) -> None:  # noqa: ARG002
        for functions in self._before_request():
            hide_store_from_dash_setup(functions, lambda: context_with(empty_store()))

    def _before_request(self) -> list[list[Callable[..., Any]]]:
        """The lists of functions that are called before requests. Dash passes its own to its middleware."""
        options = [middleware.kwargs for middleware in getattr(self._host, "user_middleware", ())]
        return [kwargs["before_request_funcs"] for kwargs in options if "before_request_funcs" in kwargs]

    def ensure_sync(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not iscoroutinefunction(function):
            return function

        def call(*args: Any, **kwargs: Any) -> None:
            try:
                task = asyncio.get_running_loop().create_task(function(*args, **kwargs))
            except RuntimeError:  # in a thread
                asyncio.run(function(*args, **kwargs))
            else:
                _running.add(task)
                task.add_done_callback(_running.discard)

        return call


class StarletteApp(AsgiApp):
    """A Starlette or FastAPI app, which is changed in place."""

    def install(self, middleware: Any, extension: Extension) -> None:  # noqa: ARG002
        _installed.add(self.app)
        app = self.app
        build = app.build_middleware_stack
        # It must be the outermost, because the response to a request that failed must set the cookie, too.
        app.build_middleware_stack = lambda: Entry(build(), extension, self._on_first_request)
        app.add_exception_handler(SessionEnded, _conflict)
        self._entry = app


async def _conflict(_: Any, error: SessionEnded) -> Any:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(str(error), error.code or 409)


class QuartApp(AsgiApp):
    """A Quart app, which is changed in place. It has a config like Flask's."""

    has_config = True

    @property
    def name(self) -> str:
        return str(self.app.name)

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.app.config
        return config

    @property
    def folder(self) -> Path:
        return Path(self.app.instance_path)

    @property
    def permanent_session_lifetime(self) -> timedelta:
        lifetime: timedelta = self.app.permanent_session_lifetime
        return lifetime

    def paths(self, settings: Settings) -> tuple[str, str]:
        return super().paths(settings) if self._dash else (self.app.session_interface.get_cookie_path(self.app), "/")

    def _views(self) -> Iterator[tuple[str, Any]]:
        for rule in self.app.url_map.iter_rules():
            yield rule.rule, self.app.view_functions.get(rule.endpoint)

    def install(self, middleware: Any, extension: Extension) -> None:  # noqa: ARG002
        _installed.add(self.app)
        self.app.asgi_app = Entry(self.app.asgi_app, extension, self._on_first_request)
        self._entry = self.app

    def on_first_open(self, extension: Extension, opened: Opened, empty_store: Callable[[], UserStore]) -> None:
        super().on_first_open(extension, opened, empty_store)
        watch_changes(self.app.config, COOKIES_SETTINGS, extension.reopen)

    def _before_request(self) -> list[list[Callable[..., Any]]]:
        return list(self.app.before_request_funcs.values())


def asgi_app(outer: Any, app: Any, secrets: Sequence[Secret]) -> AsgiApp | None:
    """The adapter of an ASGI app; None if the object is not one."""
    if _is_instance(app, "quart", "Quart"):
        return QuartApp(outer, app, secrets)
    if _is_instance(app, "starlette.applications", "Starlette"):
        return StarletteApp(outer, app, secrets)
    if iscoroutinefunction(app) or iscoroutinefunction(getattr(app, "__call__", None)):  # noqa: B004
        return AsgiApp(outer, app, secrets)
    return None


def _is_instance(app: Any, module: str, class_name: str) -> bool:
    """Whether an app is an instance of a class. Its module may not be installed, and is not imported here."""
    return module in sys.modules and isinstance(app, getattr(sys.modules[module], class_name))
