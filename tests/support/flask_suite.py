"""A plugin with which pytest runs Flask's own tests on apps whose ``flask.session`` is kept in the visitor's store.

``scripts/flask-suite`` uses it. An app that brings a session interface of its own is left without the middleware, which
would refuse it.
"""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from flask_dash_store import UserStoreMiddleware, extension
from flask_dash_store.apps.flask_session import StoreSessionInterface

_init = Flask.__init__


def _init_with_store(app: Flask, *args: Any, **kwargs: Any) -> None:
    _init(app, *args, **kwargs)
    if type(app.session_interface) is SecureCookieSessionInterface:
        vars(app)["plain_wsgi_app"] = app.wsgi_app
        UserStoreMiddleware(app, url="memory://", flask_session=True)


def _set(app: Flask, name: str, value: Any) -> None:
    if name == "session_interface" and not isinstance(value, StoreSessionInterface):
        app.wsgi_app = vars(app)["plain_wsgi_app"]
        del app.extensions["user_store"]
    object.__setattr__(app, name, value)


def pytest_configure() -> None:
    extension.weakness_of = lambda secrets: None  # The tests' keys are short, and one of them counts all warnings.
    Flask.__init__ = _init_with_store  # type: ignore[method-assign]
    Flask.__setattr__ = _set  # type: ignore[method-assign,assignment]
