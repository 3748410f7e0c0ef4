"""What tests of an app need: the store of a test client's visitor, and one for a callback that is called directly."""

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
    """The store of a test client's visitor, before, after or between requests: to prepare it, and to look at it.

    It is to the store what ``client.session_transaction()`` is to Flask's session, with one difference: as in a view,
    each value is stored at once, even if the block fails. When the block ends, the client has the visitor's cookie, as
    after a request; that of a visitor who had none belongs to a new session.

    :param client: of a Flask app, as ``app.test_client()``, or of Dash's, ``app.server.test_client()``
    :param args: and ``kwargs`` describe the request as those of ``app.test_request_context()`` do, such as
        ``base_url="https://shop.example"`` where the app has visitors on several hosts. By default it is one for the
        path of the store's cookie.
    :returns: a store, empty when nothing is stored for the visitor
    :raises ConfigurationError: when the app has no store, or a setting cannot be used
    :raises StorageError: when the storage cannot be opened
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
    """A request of a new visitor, for a view or a callback that is called directly, as any other function.

    In the block ``g.user_store`` and ``user_store`` are the store that is given, ``tab_store`` is that of a tab, and
    ``middleware.for_user`` gives
    stores beside it. All of them are in memory and this block's own: the app's storage is not opened. The settings are
    the app's.

    :param app: a Flask app, or a Dash app whose server is one
    :param args: and ``kwargs`` describe the request, as those of ``app.test_request_context()`` do
    :returns: an empty store
    :raises ConfigurationError: when the app has no store, or a setting cannot be used
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
