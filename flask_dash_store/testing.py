"""Help for tests: the store of a test client's visitor, and a store for a callback that a test calls directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask.testing import EnvironBuilder, FlaskClient
from werkzeug.http import parse_cookie

from .errors import ConfigurationError
from .http.wsgi import OPENED_KEY, visit
from .middleware import UserStoreMiddleware
from .proxy import EXTENSION
from .store.tab_values import NO_TAB, TAB_IN_ENVIRON
from .store.user_store import UserStore, state_of

if TYPE_CHECKING:
    from dash import Dash


@contextmanager
def user_store_transaction(client: FlaskClient, *args: Any, **kwargs: Any) -> Iterator[UserStore]:
    """The store of a test client's visitor, before, after or between requests, to prepare it or to check it.

    It does for the store what ``client.session_transaction()`` does for Flask's session, with one difference: as in a
    view, each value is stored at once, even if the block fails. When the block ends, the client has the visitor's
    cookie, as after a request. If the client had none before, a new session begins.

    :param client: ``app.test_client()`` of a Flask app, or ``app.server.test_client()`` of a Dash app
    :param args: with ``kwargs``, describes the request as in ``app.test_request_context()``, for example
        ``base_url="https://shop.example"`` if the app has several hosts. By default the path is that of the store's
        cookie.
    :param kwargs: see ``args``
    :returns: a context manager that gives the store, which is empty if nothing is stored for the visitor
    :raises ConfigurationError: if the app has no store, or a setting is invalid
    :raises StorageError: if the storage cannot be opened
    """
    app = client.application
    opened = _middleware_of(app).opened(app)
    builder = EnvironBuilder(app, *(args or (opened.request_sessions.home,)), **kwargs)
    environ = builder.get_environ()
    builder.close()
    cookie = opened.cookie_attributes
    domain = (cookie.domain or builder.host.partition(":")[0]).lstrip(".")
    present = client.get_cookie(cookie.name, domain, cookie.path)
    if present is not None:
        environ["HTTP_COOKIE"] = f"{cookie.name}={present.value}"
    store = visit(opened.request_sessions, environ)
    yield store
    is_host_only = cookie.domain is None
    for header, content in opened.request_sessions.finish(state_of(store), [], builder.url_scheme):
        if header == "Set-Cookie":
            value = parse_cookie(content)[cookie.name]
            client.set_cookie(cookie.name, value, domain=domain, path=cookie.path, origin_only=is_host_only)


@contextmanager
def user_store_context(app: Flask | Dash, *args: Any, **kwargs: Any) -> Iterator[UserStore]:
    """A request of a new visitor, in which a test can call a view or a callback directly, like any other function.

    Inside the block, ``g.user_store`` and ``user_store`` are the store that it gives. ``tab_store`` and
    ``middleware.for_user`` work, too. All values are in memory and belong to this block; the app's own storage is not
    opened. The settings are those of the app.

    :param app: a Flask app, or a Dash app on Flask
    :param args: with ``kwargs``, describes the request as in ``app.test_request_context()``
    :param kwargs: see ``args``
    :returns: a context manager that gives an empty store
    :raises ConfigurationError: if the app has no store, or a setting is invalid
    """
    server = app if isinstance(app, Flask) else app.server
    opened = _middleware_of(server).extension(server).open_in_memory()
    with server.test_request_context(*(args or (opened.request_sessions.home,)), **kwargs) as context:
        environ = context.request.environ
        environ[OPENED_KEY] = opened
        environ.setdefault(TAB_IN_ENVIRON, NO_TAB)
        yield visit(opened.request_sessions, environ)


def _middleware_of(app: Flask) -> UserStoreMiddleware:
    middleware = app.extensions.get(EXTENSION)
    if not isinstance(middleware, UserStoreMiddleware):
        raise ConfigurationError(f"The app {app.name!r} has no user store: install UserStoreMiddleware on it first.")
    return middleware
