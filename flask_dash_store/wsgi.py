"""The way of a request: cookie in, the visitor's store into the environ, cookie out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from .caching import keep_private, may_be_shared, vary_on_cookie
from .cookie import SessionCookie
from .errors import StorageError
from .housekeeping import Housekeeping
from .mapping import Backend
from .owner import new_session_id, session_owner
from .trace import Trace
from .user_store import UserStore

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("flask_dash_store")

ENVIRON_KEY = "flask_dash_store.user_store"

# How long after the end of a session a browser may still send its id, for requests overtake each other.
GRACE = 60.0

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")


@dataclass
class _Visit:
    """One request: the id its cookie holds, if that is a session's, and the store it is given."""

    store: UserStore
    trace: Trace
    cookie_id: str | None
    arrived_at: float
    is_cookie_withheld: bool


class SessionMiddleware:
    """The WSGI middleware around one app.

    :param lifetime: seconds after which a session ends however busy it is
    :param counts_as_use: asked, when a store is used, whether this request keeps its session alive
    """

    def __init__(
        self,
        wsgi_app: WSGIApplication,
        cookie: SessionCookie,
        backend: Backend,
        lifetime: float,
        counts_as_use: Callable[[], bool] | None = None,
    ) -> None:
        self._wsgi_app = wsgi_app
        self._cookie = cookie
        self._backend = backend
        self._lifetime = lifetime
        self._counts_as_use = counts_as_use
        self.housekeeping = Housekeeping(backend, lifetime)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        visit = self._visit(environ)
        environ[ENVIRON_KEY] = visit.store

        def start_with_cookie(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            headers = list(headers)
            self._finish(visit, headers, environ["wsgi.url_scheme"])
            return start_response(status, headers) if exc_info is None else start_response(status, headers, exc_info)

        response = self._wsgi_app(environ, start_with_cookie)
        return ClosingIterator(response, self.housekeeping.run) if self.housekeeping.is_due() else response

    # Cookie in

    def _visit(self, environ: WSGIEnvironment) -> _Visit:
        now = self._backend.lifetime.clock()
        session = self._cookie.read(environ.get("HTTP_COOKIE", ""))
        if session is None:
            return self._open(new_session_id(), now, now, cookie_id=None, is_withheld=self._is_withheld(environ))
        if now - session.issued_at >= self._lifetime:
            return self._open(self._succeed(session.id, now), now, now, cookie_id=session.id)
        return self._open(session.id, session.issued_at, now, cookie_id=session.id)

    def _open(
        self, session_id: str, issued_at: float, now: float, cookie_id: str | None, is_withheld: bool = False
    ) -> _Visit:
        trace = Trace()
        store = UserStore(
            self._backend,
            session_owner(session_id),
            session_id=session_id,
            is_new=session_id != cookie_id,
            ends_at=issued_at + self._lifetime,
            counts_as_use=self._counts_as_use,
            trace=trace,
        )
        return _Visit(store, trace, cookie_id, now, is_withheld)

    def _succeed(self, session_id: str, now: float) -> str:
        """The id that follows one whose lifetime has ended: the same for all requests that come with it together.

        The first one writes down when it came. Whoever comes with the old id later than GRACE is no parallel
        request of that browser, but may be somebody with a stolen cookie: he is a stranger.
        """
        try:
            ended_at = self._backend.storage.end(session_owner(session_id), self._backend.lifetime.moment())
        except StorageError as error:
            logger.warning("Requests in parallel may be given different sessions: %s", error)
            return new_session_id()
        return self._cookie.successor(session_id, ended_at) if now - ended_at < GRACE else new_session_id()

    def _is_withheld(self, environ: WSGIEnvironment) -> bool:
        """Whether the browser may have a cookie that SameSite forbids it to send with this request."""
        if environ.get("HTTP_SEC_FETCH_SITE") != "cross-site":
            return False
        samesite = self._cookie.attributes.samesite
        return samesite == "Strict" or (samesite == "Lax" and environ["REQUEST_METHOD"] not in _SAFE_METHODS)

    # Cookie out

    def _finish(self, visit: _Visit, headers: list[tuple[str, str]], scheme: str) -> None:
        new_id = self._id_to_send(visit)
        if new_id is not None and may_be_shared(headers):
            if visit.trace.was_written:
                logger.warning(
                    "A response that shared caches may keep (Cache-Control) has changed the visitor's session, but "
                    "cannot carry its cookie. Make it private."
                )
            new_id = None
        if new_id is not None:
            headers.append(("Set-Cookie", self._cookie.dump(new_id, scheme)))
            keep_private(headers)
        if new_id is not None or visit.trace.was_used:
            vary_on_cookie(headers)

    def _id_to_send(self, visit: _Visit) -> str | None:
        """The session id that the browser has to be told; None when it has the right one, or a newer one."""
        trace = visit.trace
        if trace.was_destroyed:
            return new_session_id()
        if trace.ended_at is not None:
            # Another request has ended the session. Its response, not this one, brings the browser's next cookie;
            # but one that still comes with the dead id long after has missed it.
            return new_session_id() if visit.arrived_at - trace.ended_at > GRACE else None
        if visit.is_cookie_withheld and not trace.was_written:
            return None
        return trace.session_id if trace.session_id != visit.cookie_id else None
