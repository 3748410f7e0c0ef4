"""The way of a request on a WSGI server: cookie in, the visitor's store into the environ, cookie out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from ..store.internal import state_of
from ..store.session_state import Use
from ..store.user_store import UserStore
from .caching import Headers
from .sessions import RequestSessions

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ENVIRON_KEY = "flask_dash_store.user_store"

# In the environ of user_store_context(): the OpenedExtension that replaces the app's own.
OPENED_KEY = "flask_dash_store.opened"

# Flask-SocketIO handles each event as a request with a copy of the connection's environ, in which this key is the app.
# Such a request has no response that could set a cookie.
SOCKET_KEY = "flask.app"


class SessionMiddleware:
    """The WSGI middleware around one app."""

    def __init__(self, wsgi_app: WSGIApplication, sessions: RequestSessions) -> None:
        self._wsgi_app = wsgi_app
        self._sessions = sessions

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        sessions = self._sessions
        now = sessions.clock()
        environ[ENVIRON_KEY] = store = sessions.arrive(_Head(environ), now)
        state = state_of(store)
        state.is_in_wsgi_call = True
        state.is_answered = _is_websocket(environ)  # The server has already answered, without a cookie.

        def start_with_cookie(status: str, headers: Headers, exc_info: Any = None) -> Any:
            headers = sessions.finish(state, headers, environ["wsgi.url_scheme"])
            return start_response(status, headers) if exc_info is None else start_response(status, headers, exc_info)

        response = self._wsgi_app(environ, start_with_cookie)
        if sessions.maintenance.is_due(now, state.use is Use.WRITTEN):
            return ClosingIterator(response, sessions.maintenance.run)
        return response


def visit(sessions: RequestSessions, environ: WSGIEnvironment) -> UserStore:
    """Give a store to a request that does not come through the middleware: a test's, or a socket event."""
    environ[ENVIRON_KEY] = store = sessions.arrive(_Head(environ), sessions.clock())
    state_of(store).is_answered = SOCKET_KEY in environ
    return store


class _Head:
    """The :class:`RequestHead` of a WSGI request. Most requests need nothing but the cookie, so the rest is lazy."""

    __slots__ = ("cookie", "raw")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.raw = environ
        self.cookie: str = environ.get("HTTP_COOKIE", "")

    @property
    def method(self) -> str:
        return str(self.raw["REQUEST_METHOD"])

    @property
    def path(self) -> str:
        return str(self.raw.get("PATH_INFO", ""))

    @property
    def query(self) -> str:
        return str(self.raw.get("QUERY_STRING", ""))

    @property
    def scheme(self) -> str:
        return str(self.raw["wsgi.url_scheme"])

    def header(self, name: str) -> str | None:
        value: str | None = self.raw.get("HTTP_" + name.upper().replace("-", "_"))
        return value


def _is_websocket(environ: WSGIEnvironment) -> bool:
    return "HTTP_UPGRADE" in environ and environ["HTTP_UPGRADE"].lower() == "websocket"
