"""Help for tests: the store of a test client's visitor, and a store for a callback that a test calls directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.cookiejar import CookieJar
from typing import TYPE_CHECKING, Any
from urllib.request import Request

from flask import Flask
from flask.testing import EnvironBuilder as FlaskEnvironBuilder
from flask.testing import FlaskClient
from werkzeug.http import parse_cookie
from werkzeug.test import EnvironBuilder

from .errors import ConfigurationError
from .extension import Extension, OpenedExtension, extension_of, opened_in_test
from .http.asgi import Scope
from .http.wsgi import OPENED_KEY, visit
from .middleware import UserStoreMiddleware
from .store.internal import context_with, state_of
from .store.tab_values import NO_TAB, TAB_HEADER, TAB_IN_ENVIRON, current_tab
from .store.user_store import UserStore

if TYPE_CHECKING:
    from dash import Dash


@contextmanager
def user_store_transaction(client: Any, *args: Any, **kwargs: Any) -> Iterator[UserStore]:
    """The store of a test client's visitor, before, after or between requests, to prepare it or to check it.

    It does for the store what ``client.session_transaction()`` does for Flask's session, with one difference: as in a
    view, each value is stored at once, even if the block fails. When the block ends, the client has the visitor's
    cookie, as after a request. If the client had none before, a new session begins.

    :param client: ``app.test_client()`` of a Flask or Quart app, ``app.server.test_client()`` of a Dash app,
        ``TestClient(app)`` of Starlette or FastAPI, or an ``httpx.AsyncClient`` with an ``ASGITransport``
    :param args: with ``kwargs``, describes the request as in Flask's ``app.test_request_context()``, for example
        ``base_url="https://shop.example"`` if the app has several hosts. By default the path is that of the store's
        cookie.
    :param kwargs: see ``args``
    :returns: a context manager that gives the store, which is empty if nothing is stored for the visitor
    :raises ConfigurationError: if the app has no store, or a setting is invalid
    :raises StorageError: if the storage cannot be opened
    """
    block = _of_flask_client if isinstance(client, FlaskClient) else _of_asgi_client
    with block(client, args, kwargs) as store:
        yield store


@contextmanager
def user_store_context(app: Flask | Dash | Any, *args: Any, **kwargs: Any) -> Iterator[UserStore]:
    """A request of a new visitor, in which a test can call a view or a callback directly, like any other function.

    Inside the block, ``user_store``, and on Flask ``g.user_store``, is the store that it gives. ``tab_store`` and
    ``middleware.for_user`` work, too. All values are in memory and belong to this block; the app's own storage is not
    opened. The settings are those of the app.

    :param app: a Flask app, a Dash app, or an ASGI app that has the store. For an ASGI app, the block provides the
        store, but no request of the framework.
    :param args: with ``kwargs``, describes the request as in Flask's ``app.test_request_context()``
    :param kwargs: see ``args``
    :returns: a context manager that gives an empty store
    :raises ConfigurationError: if the app has no store, or a setting is invalid
    """
    server = app if isinstance(app, Flask) else getattr(app, "server", app)
    opened = _extension_of(server).open_in_memory()
    path = args or (opened.request_sessions.home,)
    if isinstance(server, Flask):
        with server.test_request_context(*path, **kwargs) as context:
            environ = context.request.environ
            environ[OPENED_KEY] = opened
            environ.setdefault(TAB_IN_ENVIRON, NO_TAB)
            yield visit(opened.request_sessions, environ)
    else:
        builder = EnvironBuilder(*path, **kwargs)
        store = _visit(opened, builder)
        in_test = opened_in_test.set(opened)
        in_tab = current_tab.set(builder.headers.get(TAB_HEADER, NO_TAB))
        try:
            with context_with(store):
                yield store
        finally:
            current_tab.reset(in_tab)
            opened_in_test.reset(in_test)


@contextmanager
def _of_flask_client(client: FlaskClient, args: Any, kwargs: Any) -> Iterator[UserStore]:
    app = client.application
    opened = _extension_of(app).open()
    builder = FlaskEnvironBuilder(app, *(args or (opened.request_sessions.home,)), **kwargs)
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
    for content in _cookies(opened, store, builder):
        value = parse_cookie(content)[cookie.name]
        client.set_cookie(cookie.name, value, domain=domain, path=cookie.path, origin_only=is_host_only)


@contextmanager
def _of_asgi_client(client: Any, args: Any, kwargs: Any) -> Iterator[UserStore]:
    opened = _extension_of(_app_of(client)).open()
    base_url = str(getattr(client, "base_url", "") or "http://localhost")
    builder = EnvironBuilder(*(args or (opened.request_sessions.home,)), **{"base_url": base_url} | kwargs)
    jar: CookieJar = client.cookie_jar if hasattr(client, "cookie_jar") else client.cookies.jar
    url = f"{builder.url_scheme}://{builder.host}{builder.script_root}{builder.path}"
    request = Request(url)  # noqa: S310  # It is never sent: the jar adds the cookies that it would bring.
    jar.add_cookie_header(request)
    builder.headers.setdefault("Cookie", request.get_header("Cookie", ""))
    store = _visit(opened, builder)
    yield store
    jar.extract_cookies(_Response(_cookies(opened, store, builder)), request)  # type: ignore[arg-type]


class _Response:
    """The part of a response that a cookie jar reads."""

    def __init__(self, cookies: list[str]) -> None:
        self._headers = Message()
        for cookie in cookies:
            self._headers.add_header("Set-Cookie", cookie)

    def info(self) -> Message:
        return self._headers


def _app_of(client: Any) -> Any:
    """The ASGI app that a client calls. An httpx.AsyncClient has it in its transport."""
    return client.app if hasattr(client, "app") else getattr(getattr(client, "_transport", None), "app", None)


def _visit(opened: OpenedExtension, builder: EnvironBuilder) -> UserStore:
    return opened.handler.visit(_scope(builder), opened.request_sessions.clock())  # type: ignore[no-any-return]


def _scope(builder: EnvironBuilder) -> Scope:
    headers = [("Host", builder.host), *builder.headers.items()]
    return {
        "type": "http",
        "method": builder.method,
        "scheme": builder.url_scheme,
        "root_path": builder.script_root,
        "path": builder.script_root + builder.path,
        "query_string": builder.query_string.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
    }


def _cookies(opened: OpenedExtension, store: UserStore, builder: EnvironBuilder) -> list[str]:
    """The cookies that the response to a request with this store would set."""
    headers = opened.request_sessions.finish(state_of(store), [], builder.url_scheme)
    return [value for name, value in headers if name == "Set-Cookie"]


def _extension_of(app: Any) -> Extension:
    extension = app.extension() if isinstance(app, UserStoreMiddleware) else extension_of(app)
    if extension is None:
        name = getattr(app, "name", type(app).__name__)
        raise ConfigurationError(
            f"The app {name!r} has no user store. Install it first, with UserStoreMiddleware(app). (Middleware that "
            "app.add_middleware() adds is only created with the first request, which is too late here.)"
        )
    return extension
