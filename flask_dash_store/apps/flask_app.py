"""Installs the user store in a Flask app, or in a Dash app on Flask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, has_request_context, request

from ..cli import user_store
from ..dash.devtools import add_to_dev_tools
from ..dash.pages import has_dash, hide_store_from_dash_setup
from ..errors import ConfigurationError
from ..http.sessions import Inheritance, RequestSessions
from ..http.wsgi import SessionMiddleware
from ..proxy import EXTENSION, add_store_to_g, request_with, store_of
from ..settings import Settings
from ..store.user_store import UserStore
from .adapter import AppAdapter, Extension, Opened
from .flask_login import LoginSignals
from .flask_session import StoreSessionInterface, check_interface
from .inheritance import ImportedSessions, inherit_from_cookies
from .late_settings import COOKIES_SETTINGS, FLASKS_SETTINGS, watch_changes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from dash import Dash


class FlaskApp(AppAdapter):
    """A Flask app. This object replaces the app's ``wsgi_app``.

    :param app: what the middleware was given: the Flask app, or a Dash app on it
    :param server: the Flask app
    """

    app: Flask

    def __init__(self, app: Flask | Dash, server: Flask) -> None:
        self._outer = app
        self.app = server

    @property
    def name(self) -> str:
        return self.app.name

    @property
    def import_name(self) -> str:
        return self.app.import_name

    @property
    def config(self) -> Mapping[str, Any]:
        return self.app.config

    @property
    def folder(self) -> Path:
        return Path(self.app.instance_path)

    @property
    def permanent_session_lifetime(self) -> timedelta:
        return self.app.permanent_session_lifetime

    def paths(self, settings: Settings) -> tuple[str, str]:
        # With flask_session, the cookie is Flask's, which all pages of the server share.
        if settings.flask_session or isinstance(self._outer, Flask):
            return self.app.session_interface.get_cookie_path(self.app), "/"
        config = self._outer.config
        return config.requests_pathname_prefix.rstrip("/") or "/", config.routes_pathname_prefix

    @property
    def has_dash(self) -> bool:
        return has_dash(rule.rule for rule in self.app.url_map.iter_rules())

    @property
    def is_installed(self) -> bool:
        return EXTENSION in self.app.extensions

    def install(self, middleware: Any, extension: Extension) -> None:
        self._extension = extension
        self._wsgi_app = self.app.wsgi_app
        self.app.wsgi_app = self  # type: ignore[method-assign]
        add_store_to_g(self.app, extension.name)
        self._login_signals = LoginSignals(self.app, lambda: extension.settings.flask_login)
        self.app.extensions[EXTENSION] = middleware
        self.app.cli.add_command(user_store)

    @property
    def entry(self) -> Callable[..., Awaitable[None]]:
        raise ConfigurationError(f"The app {self.name!r} is a Flask app: serve the app itself, with a WSGI server.")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        extension = self._extension
        opened = extension.opened
        if opened is None and self._has_null_session():
            return self._wsgi_app(environ, start_response)
        if not extension.is_prepared:
            extension.prepare(self._add_to_dev_tools)
        opened = opened or extension.open()
        return opened.handler(environ, start_response)  # type: ignore[no-any-return]

    def _add_to_dev_tools(self) -> None:
        add_to_dev_tools(self.app, lambda: store_of(self.app, request.environ))

    def _has_null_session(self) -> bool:
        """Whether to leave the request to Flask, which reports a missing SECRET_KEY when flask.session is used."""
        return not self.app.config.get("SECRET_KEY") and self._extension.settings.flask_session

    def handler(self, sessions: RequestSessions, settings: Settings) -> SessionMiddleware:  # noqa: ARG002
        return SessionMiddleware(self._wsgi_app, sessions)

    def apply(self, settings: Settings) -> None:
        if settings.flask_session:
            check_interface(self.app)
            if type(self.app.session_interface) is not StoreSessionInterface:
                self.app.session_interface = StoreSessionInterface(lambda: self._extension.settings)

    def on_first_open(self, extension: Extension, opened: Opened, empty_store: Callable[[], UserStore]) -> None:
        for functions in self.app.before_request_funcs.values():
            hide_store_from_dash_setup(functions, lambda: request_with(empty_store()))
        followed = FLASKS_SETTINGS if opened.settings.flask_session else COOKIES_SETTINGS
        watch_changes(self.app.config, followed, extension.reopen)

    def ensure_sync(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.app.ensure_sync(function)

    def counts_as_use(self, setting: Callable[[Any], bool] | None) -> Callable[[], bool] | None:
        return None if setting is None else lambda: not has_request_context() or bool(setting(request))

    def starts_session(self, setting: Callable[[Any], bool] | None) -> Callable[[Any], bool] | None:
        return None if setting is None else lambda environ: bool(setting(self.app.request_class(environ)))

    def inherit(
        self, name: str, secrets: Sequence[bytes], imported: ImportedSessions
    ) -> Callable[[str], Inheritance | None] | None:
        return inherit_from_cookies(self.app, name, secrets, imported)
