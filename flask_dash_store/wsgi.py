"""The way of a request: cookie in, the visitor's store into the environ, cookie out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from werkzeug.wsgi import ClosingIterator

from .caching import Headers, keep_private, may_be_shared, vary_on_cookie
from .cookie import Session, SessionCookie
from .embedding import CookieAdvisor, is_withheld
from .errors import SessionEnded, StorageError
from .maintenance import Maintenance
from .owner import SESSION_PREFIX, Owner, new_session_id, session_owner
from .session_state import CLOCK_TOLERANCE, Cookie, Fate, Issue, SessionState, Use
from .user_store import SessionContext, UserStore

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("flask_dash_store")

ENVIRON_KEY = "flask_dash_store.user_store"

# Where a request brings what it uses instead of its app's storage, as in user_store_context().
OPENED_KEY = "flask_dash_store.opened"

# Flask-SocketIO handles each event of a connection as a request of its own, with a copy of the environ that the
# connection began with, in which this is the app. No response goes with it that could bring the browser a cookie.
SOCKET_KEY = "flask.app"

# For how long after the end of a lifetime the requests that bring the old id count as one browser's, in parallel, which
# share the successor. One that comes later may hold a stolen cookie.
SUCCESSION = 60.0


class Inheritance(NamedTuple):
    """A session that Flask's own cookie stands for: its id, when it was signed (since the epoch), and its values."""

    session_id: str
    issued_at: float
    values: Mapping[str, Any]


class SessionMiddleware:
    """The WSGI middleware around one app.

    :param home: the path under which the browser sends the cookie, as the app sees it, with a slash at its end
    :param is_eager: whether a new visitor gets a cookie with the first response, though the store was not used
    :param counts_as_use: asked, when a store is used, whether this request keeps its session alive
    :param inherit: what Flask's own cookie in a Cookie header stands for, where this cookie takes its name
    :param starts_session: asked of a request that came without a session, whether one may begin
    """

    def __init__(
        self,
        wsgi_app: WSGIApplication,
        cookie: SessionCookie,
        context: SessionContext,
        home: str,
        is_eager: bool,
        counts_as_use: Callable[[], bool] | None = None,
        inherit: Callable[[str], Inheritance | None] | None = None,
        starts_session: Callable[[WSGIEnvironment], bool] | None = None,
    ) -> None:
        self._wsgi_app = wsgi_app
        self._cookie = cookie
        self._context = context
        self._clock = context.expiry.clock
        self.home = home
        self._is_eager = is_eager
        self._counts_as_use = counts_as_use
        self._inherit = inherit
        self._starts_session = starts_session
        # Browsers send the cookie of an embedded app with all requests. What Lax would keep back is kept back here.
        self._is_embedded = cookie.attributes.embedded
        self._samesite = "Lax" if self._is_embedded else cookie.attributes.samesite
        self._advisor = CookieAdvisor(cookie.attributes)
        self.maintenance = Maintenance(context, SESSION_PREFIX, context.lifetime, context.signals.expired)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        now = self._clock()
        state = self._arrive(environ, now)
        state.is_in_wsgi_call = True
        state.is_answered = _is_websocket(environ)  # The server has answered then, without a cookie.
        environ[ENVIRON_KEY] = UserStore(self._context, state)

        def start_with_cookie(status: str, headers: Headers, exc_info: Any = None) -> Any:
            headers = self.finish(state, headers, environ)
            return start_response(status, headers) if exc_info is None else start_response(status, headers, exc_info)

        response = self._wsgi_app(environ, start_with_cookie)
        if self.maintenance.is_due(now, state.use is Use.WRITTEN):
            return ClosingIterator(response, self.maintenance.run)
        return response

    def visit(self, environ: WSGIEnvironment) -> tuple[UserStore, SessionState]:
        """Give a request that does not come through this middleware its store: a test's, or a socket's event."""
        state = self._arrive(environ, self._clock())
        state.is_answered = SOCKET_KEY in environ
        environ[ENVIRON_KEY] = store = UserStore(self._context, state)
        return store, state

    # Cookie in

    def _arrive(self, environ: WSGIEnvironment, now: float) -> SessionState:
        """The session that a request comes with, or begins."""
        header = environ.get("HTTP_COOKIE", "")
        if self._is_embedded and self._is_withheld(environ):
            header = ""
        session = self._cookie.read(header)
        if session is None:
            inheritance = None if self._inherit is None else self._inherit(header)
            if inheritance is not None and inheritance.issued_at + self._context.lifetime > now:
                state = self._begin(Fate.INHERITED, inheritance.session_id, inheritance.issued_at)
                state.inherit(inheritance.values)
            else:
                state = self._begin(Fate.NEW, new_session_id(), now)
                state.cookie = self._missing_cookie(environ)
        elif session.issued_at + self._context.lifetime > now:
            state = self._keep(session, now)
        else:
            state = self._succeed(session, now)
        state.arrived_at = now
        state.counts_as_use = self._counts_as_use
        return state

    def _keep(self, session: Session, now: float) -> SessionState:
        state = SessionState(session.owner)
        state.session_id = session.id
        state.cookie = Cookie.CURRENT if session.is_current else Cookie.STALE
        state.issued_at, state.is_permanent = session.issued_at, session.is_permanent
        if session.issued_at > now + CLOCK_TOLERANCE:
            # The clock was stepped back. Without a cookie of today the session would live longer by that step.
            state.cookie, state.issued_at = Cookie.STALE, now
        state.ends_at = state.issued_at + self._context.lifetime
        return state

    def _begin(self, fate: Fate, session_id: str, now: float) -> SessionState:
        state = SessionState(session_owner(session_id))
        state.take(fate, session_id, now, self._context.lifetime)
        return state

    def _succeed(self, session: Session, now: float) -> SessionState:
        """The session that follows one whose lifetime has ended, the same for all requests in parallel.

        The first of them has the storage note when it came.
        """
        access = self._context.expiry.access()
        try:
            ended_at = self._context.end(session.owner, access, "lifetime")
        except StorageError as error:
            logger.warning("Requests in parallel may be given different sessions: %s", error)
            ended_at = -SUCCESSION
        else:
            if ended_at < session.issued_at + self._context.lifetime:  # It was destroyed or regenerated before.
                return self._keep(session, now)
        if now - ended_at >= SUCCESSION:
            return self._begin(Fate.NEW, new_session_id(), now)
        state = self._begin(Fate.SUCCEEDED, self._context.ids.after_lifetime(session.id, ended_at), now)
        state.is_first = ended_at == access.now
        return state

    def _missing_cookie(self, environ: WSGIEnvironment) -> Cookie:
        if self._starts_session is not None and not self._starts_session(environ):
            return Cookie.REFUSED
        # A cookie for /app comes with /app, which a mounted app sees as "" (PEP 3333), and with /app/ and all below it.
        if not (environ.get("PATH_INFO", "") + "/").startswith(self.home):
            return Cookie.UNREACHABLE
        self._advisor.look(
            lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"), environ["wsgi.url_scheme"]
        )
        return Cookie.WITHHELD if self._is_withheld(environ) else Cookie.MISSING

    def _is_withheld(self, environ: WSGIEnvironment) -> bool:
        return is_withheld(self._samesite, environ.get("HTTP_SEC_FETCH_SITE"), environ["REQUEST_METHOD"])

    # Cookie out

    def finish(self, state: SessionState, headers: Headers, environ: WSGIEnvironment) -> Headers:
        """The headers of the response to a request, with what its session and caches need."""
        state.is_answered = True
        if state.use is Use.NONE and state.fate is Fate.KEPT and not state.is_named:
            return headers
        issue = state.issue(self._is_eager, self._has_ended, self._clock)
        headers = list(headers)
        if issue is not None and not self._is_cookie_barred(state, headers):
            headers.append(("Set-Cookie", self._dump(issue, environ["wsgi.url_scheme"])))
            keep_private(headers)
            vary_on_cookie(headers)
            if state.begins and issue.session_id is not None:
                self._context.signals.started(session_owner(issue.session_id))
        elif state.use or (state.is_named and not may_be_shared(headers)):
            vary_on_cookie(headers)
        return headers

    def _dump(self, issue: Issue, scheme: str) -> str:
        if issue.session_id is None:
            return self._cookie.dump_expired(scheme)
        return self._cookie.dump(issue.session_id, issue.issued_at, scheme, issue.is_permanent)

    def _is_cookie_barred(self, state: SessionState, headers: Headers) -> bool:
        """Whether caches may give this response to others, so that it cannot carry a visitor's cookie."""
        if not may_be_shared(headers):
            return False
        if state.use is Use.WRITTEN:
            logger.warning(
                "A response that shared caches may keep (Cache-Control) has changed the visitor's session, but cannot "
                "carry its cookie. Make it private."
            )
        return True

    def _has_ended(self, owner: Owner) -> bool:
        """Whether a session that other requests share was ended by one of them."""
        try:
            self._context.storage.stat(owner, self._context.expiry.access())
        except SessionEnded:
            return True
        except StorageError as error:
            logger.warning("A session's cookie is sent though the session may have ended: %s", error)
        return False


def _is_websocket(environ: WSGIEnvironment) -> bool:
    return "HTTP_UPGRADE" in environ and environ["HTTP_UPGRADE"].lower() == "websocket"
