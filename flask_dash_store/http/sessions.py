"""Which session a request belongs to, and what its response brings the browser. It knows no server's interface."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..errors import SessionEnded, StorageError
from ..maintenance import Maintenance
from ..owner import SESSION_PREFIX, Owner, new_session_id, session_owner
from ..store.session_state import CLOCK_TOLERANCE, Cookie, Fate, Issue, SessionState, Use
from ..store.user_store import SessionContext, UserStore
from .caching import Headers, keep_private, may_be_shared, vary_on_cookie
from .cookie import Session, SessionCookie
from .embedding import CookieAdvisor, Header, is_withheld, is_withheld_from_embedded

logger = logging.getLogger("flask_dash_store")

# For how long after the end of a lifetime the requests that bring the old id count as one browser's, in parallel, which
# share the successor. One that comes later may hold a stolen cookie.
SUCCESSION = 60.0


class RequestHead(Protocol):
    """What of a request says which session it belongs to."""

    @property
    def cookie(self) -> str:
        """The Cookie header, empty if there is none."""

    @property
    def method(self) -> str:
        """In upper case; GET for a websocket."""

    @property
    def path(self) -> str:
        """As the app sees it, without what it is mounted under."""

    @property
    def query(self) -> str:
        """What follows the question mark."""

    @property
    def fetch_site(self) -> str | None:
        """The Sec-Fetch-Site header; None if there is none."""

    @property
    def scheme(self) -> str:
        """By which it came: http or https."""

    @property
    def header(self) -> Header:
        """Gives any other header; None if there is none."""

    @property
    def raw(self) -> Any:
        """The request as the server has it: a WSGI environ, or an ASGI scope."""


class Inheritance(NamedTuple):
    """A session that a cookie from before stands for: its id, and since when it counts, in seconds since the epoch."""

    session_id: str
    issued_at: float


class RequestSessions:
    """Gives the requests of one app their sessions.

    :param home: the path under which the browser sends the cookie, as the app sees it, with a slash at its end
    :param is_eager: whether a new visitor gets a cookie with the first response, though the store was not used
    :param counts_as_use: asked, when a store is used, whether this request keeps its session alive
    :param inherit: what a cookie of Flask's own, or of Flask-Session, stands for, where this cookie takes its name
    :param is_poll: whether a request, of this path and query, never keeps its session alive
    :param starts_session: asked of a request, as the server has it, that came without a session, whether one may begin
    """

    def __init__(
        self,
        cookie: SessionCookie,
        context: SessionContext,
        home: str,
        is_eager: bool,
        counts_as_use: Callable[[], bool] | None = None,
        inherit: Callable[[str], Inheritance | None] | None = None,
        is_poll: Callable[[str, str], bool] | None = None,
        starts_session: Callable[[Any], bool] | None = None,
    ) -> None:
        self._cookie = cookie
        self._context = context
        self.clock = context.expiry.clock
        self.home = home
        self._is_eager = is_eager
        self._counts_as_use = counts_as_use
        self._inherit = inherit
        self._is_poll = is_poll
        self._starts_session = starts_session
        self._advisor = CookieAdvisor(cookie)
        self.maintenance = Maintenance(context, SESSION_PREFIX, context.lifetime, context.signals.expired)

    # Cookie in

    def arrive(self, request: RequestHead, now: float) -> UserStore:
        """The store of the session that a request comes with, or begins.

        :param now: seconds since the epoch
        """
        is_cookie_withheld = self._cookie.attributes.embedded and self._is_withheld(request)
        cookie = "" if is_cookie_withheld else request.cookie
        session = self._cookie.read(cookie)
        if session is None:
            inheritance = None if self._inherit is None else self._inherit(cookie)
            if inheritance is not None and inheritance.issued_at + self._context.lifetime > now:
                state = self._begin(Fate.INHERITED, inheritance.session_id, inheritance.issued_at)
                state.cookie = Cookie.STALE
            else:
                state = self._begin(Fate.NEW, new_session_id(), now)
                state.cookie = self._missing_cookie(request)
        elif session.issued_at + self._context.lifetime > now:
            state = self._keep(session, now)
        else:
            state = self._succeed(session, now)
        if session is not None and self._starts_session is not None:
            state.may_begin = partial(self._starts_session, request.raw)
            if state.is_new:
                state.refuse()
        state.arrived_at = now
        is_poll = self._is_poll is not None and self._is_poll(request.path, request.query)
        state.counts_as_use = _never if is_poll else self._counts_as_use
        return UserStore(self._context, state)

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
        state.switch_to(fate, session_id, now, self._context.lifetime)
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

    def _missing_cookie(self, request: RequestHead) -> Cookie:
        if self._starts_session is not None and not self._starts_session(request.raw):
            return Cookie.REFUSED
        # A cookie for /app comes with /app, which a mounted app sees as "" (PEP 3333), and with /app/ and all below it.
        if not (request.path + "/").startswith(self.home):
            return Cookie.UNREACHABLE
        self._advisor.look(request.header, request.scheme)
        if not self._is_withheld(request):
            return Cookie.MISSING
        # A form of another site may lead to a page of the app. All else may not bring a cookie, as with Lax: one of a
        # login that was forged would replace that of the app in an iframe.
        is_foreign = self._cookie.attributes.embedded and request.header("Sec-Fetch-Dest") != "document"
        return Cookie.FOREIGN if is_foreign else Cookie.WITHHELD

    def _is_withheld(self, request: RequestHead) -> bool:
        attributes = self._cookie.attributes
        if attributes.embedded:
            return is_withheld_from_embedded(request.fetch_site, request.method, request.header)
        return is_withheld(attributes.samesite, request.fetch_site, request.method)

    # Cookie out

    def finish(self, state: SessionState, headers: Headers, scheme: str) -> Headers:
        """The headers of the response to a request, with what its session and caches need.

        :param state: of its store
        :param scheme: by which it came: http or https
        """
        if state.is_untouched:
            state.is_answered = True
            return headers
        return self.complete(state, self.issue(state), headers, scheme)

    def issue(self, state: SessionState) -> Issue | None:
        """The session id that the response has to bring, for :meth:`complete`; None for none."""
        state.is_answered = True
        return state.issue(self._is_eager, self._has_ended, self.clock)

    def complete(self, state: SessionState, issue: Issue | None, headers: Headers, scheme: str) -> Headers:
        """The second half of :meth:`finish`."""
        headers = list(headers)
        if issue is not None and not self._is_cookie_barred(state, headers):
            headers.append(("Set-Cookie", self._dump(issue, scheme)))
            state.is_sent = True
            keep_private(headers)
            vary_on_cookie(headers)
            if state.begins and issue.session_id is not None:
                self._context.signals.started(session_owner(issue.session_id))
        elif state.use or (state.is_named and not may_be_shared(headers)):
            vary_on_cookie(headers)
        return headers

    def is_over(self, state: SessionState) -> bool:
        """Whether the session has ended, for the request to which it belongs goes on for long. It counts as no use."""
        access = self._context.expiry.access(counts_as_use=False)
        if state.fate in (Fate.ENDED, Fate.DESTROYED) or access.now >= state.ends_at:
            return True
        try:
            self._context.storage.stat(state.owner, access)
        except SessionEnded:
            return True
        except StorageError:
            pass  # It is not known; a use of the store tells of the fault.
        return False

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


def _never() -> bool:
    return False
