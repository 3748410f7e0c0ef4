"""The way of a request: cookie in, the visitor's store into the environ, cookie out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from .caching import Headers, keep_private, may_be_shared, vary_on_cookie
from .cookie import Session, SessionCookie
from .errors import SessionEnded, StorageError
from .maintenance import Maintenance
from .mapping import Backend
from .owner import SESSION_PREFIX, new_session_id, session_owner
from .trace import Trace
from .user_store import UserStore

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("flask_dash_store")

ENVIRON_KEY = "flask_dash_store.user_store"

# How long after the end of a session a browser may still send its id, for requests overtake each other.
GRACE = 60.0

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")


class Visit(Trace):
    """One request: the session id that its cookie holds, and what its response has to say of the store."""

    is_cookie_withheld = False
    is_cookie_postdated = False
    is_successor = False

    def __init__(self, session: Session, cookie_id: str | None, arrived_at: float, ends_at: float) -> None:
        self.session_id, self.owner, _ = session
        self.cookie_id = cookie_id
        self.arrived_at = arrived_at
        self.ends_at = ends_at


current: ContextVar[tuple[SessionMiddleware, UserStore] | None] = ContextVar("flask_dash_store.current", default=None)
"""The store of the visitor whose request is being handled, and by which app's middleware."""


class SessionMiddleware:
    """The WSGI middleware around one app.

    :param lifetime: seconds after which a session ends however busy it is
    :param home: the path, as the app sees it, under which the browser sends the cookie
    :param attach: told of the store before the app is called; returns what to do after, if anything
    :param counts_as_use: asked, when a store is used, whether this request keeps its session alive
    """

    def __init__(
        self,
        wsgi_app: WSGIApplication,
        cookie: SessionCookie,
        backend: Backend,
        lifetime: float,
        home: str,
        attach: Callable[[UserStore], Callable[[], None] | None],
        counts_as_use: Callable[[], bool] | None = None,
    ) -> None:
        self._wsgi_app = wsgi_app
        self._cookie = cookie
        self._backend = backend
        self._clock = backend.expiry.clock
        self._lifetime = lifetime
        self._home = home
        self._attach = attach
        self._counts_as_use = counts_as_use
        self.maintenance = Maintenance(backend, SESSION_PREFIX, lifetime)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        now = self._clock()
        visit = self._visit(environ, now)
        if self._counts_as_use is not None:
            visit.counts_as_use = self._counts_as_use
        environ[ENVIRON_KEY] = store = UserStore(self._backend, visit.owner, visit)

        def start_with_cookie(status: str, headers: Headers, exc_info: Any = None) -> Any:
            headers = self._finish(visit, headers, environ)
            return start_response(status, headers) if exc_info is None else start_response(status, headers, exc_info)

        detach = self._attach(store)
        token = current.set((self, store))
        try:
            response = self._wsgi_app(environ, start_with_cookie)
        finally:
            current.reset(token)
            if detach is not None:
                detach()
        if self.maintenance.is_due(now, visit.was_written):
            return ClosingIterator(response, self.maintenance.run)
        return response

    # Cookie in

    def _visit(self, environ: WSGIEnvironment, now: float) -> Visit:
        session = self._cookie.read(environ.get("HTTP_COOKIE", ""))
        if session is None:
            visit = self._new_visit(new_session_id(), None, now)
            visit.is_cookie_withheld = self._is_withheld(environ)
            visit.is_out_of_reach = not environ.get("PATH_INFO", "").startswith(self._home)
            return visit
        ends_at = session.issued_at + self._lifetime
        if ends_at <= now:
            return self._succeed(session, now)
        visit = Visit(session, session.id, now, ends_at)
        if session.issued_at > now + GRACE:
            # The clock was stepped back. Without a cookie of today the session would live longer by that step.
            visit.ends_at = now + self._lifetime
            visit.is_cookie_postdated = True
        return visit

    def _new_visit(self, session_id: str, cookie_id: str | None, now: float) -> Visit:
        session = Session(session_id, session_owner(session_id), now)
        visit = Visit(session, cookie_id, now, now + self._lifetime)
        visit.is_new = True
        return visit

    def _succeed(self, session: Session, now: float) -> Visit:
        """The visit of somebody whose session's lifetime has ended: the same new session for all who come together.

        The first one writes down when it came. Whoever comes with the old id later than GRACE is no parallel
        request of that browser, but may be somebody with a stolen cookie: he is a stranger.
        """
        try:
            ended_at = self._backend.storage.end(session.owner, self._backend.expiry.access())
        except StorageError as error:
            logger.warning("Requests in parallel may be given different sessions: %s", error)
            return self._new_visit(new_session_id(), session.id, now)
        if ended_at < session.issued_at + self._lifetime:
            return Visit(session, session.id, now, now)  # It was destroyed or regenerated before, and has no successor.
        if now - ended_at >= GRACE:
            return self._new_visit(new_session_id(), session.id, now)
        visit = self._new_visit(self._cookie.successor(session.id, ended_at), session.id, now)
        visit.is_successor = True
        return visit

    def _is_withheld(self, environ: WSGIEnvironment) -> bool:
        """Whether the browser may have a cookie that SameSite forbids it to send with this request."""
        if environ.get("HTTP_SEC_FETCH_SITE") != "cross-site":
            return False
        samesite = self._cookie.attributes.samesite
        return samesite == "Strict" or (samesite == "Lax" and environ["REQUEST_METHOD"] not in _SAFE_METHODS)

    # Cookie out

    def _finish(self, visit: Visit, headers: Headers, environ: WSGIEnvironment) -> Headers:
        visit.is_answered = True
        if not visit.was_used and visit.session_id == visit.cookie_id:
            return headers
        new_id = self._id_to_send(visit)
        headers = list(headers)
        if new_id is not None and not self._is_cookie_barred(visit, headers):
            headers.append(("Set-Cookie", self._cookie.dump(new_id, environ["wsgi.url_scheme"])))
            keep_private(headers)
            vary_on_cookie(headers)
        elif visit.was_used:
            vary_on_cookie(headers)
        return headers

    def _is_cookie_barred(self, visit: Visit, headers: Headers) -> bool:
        """Whether caches may give this response to others, so that it cannot carry anybody's cookie."""
        if not may_be_shared(headers):
            return False
        if visit.was_written:
            logger.warning(
                "A response that shared caches may keep (Cache-Control) has changed the visitor's session, but cannot "
                "carry its cookie. Make it private."
            )
        return True

    def _id_to_send(self, visit: Visit) -> str | None:
        """The session id that the browser has to be told; None when it has the right one, or a newer one."""
        if visit.is_out_of_reach:
            return None
        if visit.was_destroyed:
            return None if visit.is_cookie_withheld else new_session_id()
        if visit.ended_at is not None:
            return new_session_id() if self._has_missed_its_cookie(visit, visit.ended_at) else None
        if visit.is_successor and self._has_ended(visit):
            return None
        if visit.is_cookie_withheld and not visit.was_written:
            return None
        if visit.is_cookie_postdated and visit.was_used:
            return visit.session_id
        return visit.session_id if visit.session_id != visit.cookie_id else None

    def _has_ended(self, visit: Visit) -> bool:
        """Whether a session that several requests share from its first access was ended by another one of them."""
        try:
            self._backend.storage.expiry(visit.owner, self._backend.expiry.access())
        except SessionEnded:
            return visit.owner == session_owner(visit.session_id or "")
        return False

    def _has_missed_its_cookie(self, visit: Visit, ended_at: float) -> bool:
        """Whether a browser that holds the id of a session which another request has ended needs a new one.

        The response of that other request brings it, and this one must not overwrite it. But a browser that still
        comes with the dead id long after has missed it, and so has one whose session ended in the future, by a
        clock that has been put right since.
        """
        return visit.arrived_at - ended_at > GRACE or self._clock() < ended_at - GRACE
