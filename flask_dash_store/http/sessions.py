"""Which session a request belongs to, and which cookie its response sets. Independent of WSGI and ASGI."""

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

# Seconds after the end of a session's lifetime in which requests with the old id count as parallel requests of one
# browser, and share the session's successor. A later request may have a stolen cookie.
SUCCESSION = 60.0


class RequestHead(Protocol):
    """The parts of a request that decide which session it belongs to."""

    @property
    def cookie(self) -> str:
        """The Cookie header, empty if there is none."""

    @property
    def method(self) -> str:
        """In upper case; GET for a websocket."""

    @property
    def path(self) -> str:
        """As the app sees it, without the prefix under which it is mounted."""

    @property
    def query(self) -> str:
        """What follows the question mark."""

    @property
    def scheme(self) -> str:
        """The scheme of the request: http or https."""

    @property
    def header(self) -> Header:
        """Returns any other header; None if there is none."""

    @property
    def raw(self) -> Any:
        """The request as the server has it: a WSGI environ, or an ASGI scope."""


class Inheritance(NamedTuple):
    """The session that takes over a cookie of Flask or Flask-Session: its id, and when it began, as an epoch time."""

    session_id: str
    issued_at: float


class RequestSessions:
    """Gives the requests of one app their sessions.

    :param home: the path under which the browser sends the cookie, as the app sees it, with a slash at its end
    :param is_eager: whether a new visitor gets a cookie with the first response even if the store was not used
    :param counts_as_use: called when a store is used; returns whether this request keeps its session alive
    :param inherit: finds the session of a Cookie header with a cookie of Flask or Flask-Session, which have the same
        name
    :param is_poll: called with path and query; returns whether the request never keeps its session alive
    :param starts_session: called with the environ or scope of a request without a session; returns whether one may
        begin
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
        """The store of the session that a request belongs to, or begins.

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
            # The clock was stepped back. Without a new cookie, the session would live longer by that step.
            state.cookie, state.issued_at = Cookie.STALE, now
        state.ends_at = state.issued_at + self._context.lifetime
        return state

    def _begin(self, fate: Fate, session_id: str, now: float) -> SessionState:
        state = SessionState(session_owner(session_id))
        state.switch_to(fate, session_id, now, self._context.lifetime)
        return state

    def _succeed(self, session: Session, now: float) -> SessionState:
        """The session that follows one whose lifetime has ended. All parallel requests get the same one.

        The first of them ends the old session, and the storage keeps the time.
        """
        access = self._context.expiry.access()
        try:
            ended_at = self._context.end(session.owner, access, "lifetime")
        except StorageError as error:
            logger.warning(
                "Parallel requests may begin different sessions, because the old one could not be ended: %s", error
            )
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
        # A browser sends a cookie for /app to /app, which a mounted app sees as "" (PEP 3333), and to everything below.
        if not (request.path + "/").startswith(self.home):
            return Cookie.UNREACHABLE
        self._advisor.check(request.header, request.scheme)
        if not self._is_withheld(request):
            return Cookie.MISSING
        # A form of another site may lead to a page of the app. The response to any other request of that site must not
        # set a cookie, as with Lax: a forged login would replace the cookie of the app in an iframe.
        is_foreign = self._cookie.attributes.embedded and request.header("Sec-Fetch-Dest") != "document"
        return Cookie.FOREIGN if is_foreign else Cookie.WITHHELD

    def _is_withheld(self, request: RequestHead) -> bool:
        attributes = self._cookie.attributes
        if attributes.embedded:
            return is_withheld_from_embedded(request.method, request.header)
        return is_withheld(attributes.samesite, request.method, request.header)

    # Cookie out

    def finish(self, state: SessionState, headers: Headers, scheme: str) -> Headers:
        """The headers of a response, with the session's cookie and what caches must know.

        :param state: the state of the request's store
        :param scheme: the scheme of the request: http or https
        """
        if state.is_untouched:
            state.is_answered = True
            return headers
        return self.complete(state, self.issue(state), headers, scheme)

    def issue(self, state: SessionState) -> Issue | None:
        """The session id that the response must bring, for :meth:`complete`; None if none."""
        state.is_answered = True
        return state.issue(self._is_eager, self._has_ended, self.clock)

    def complete(self, state: SessionState, issue: Issue | None, headers: Headers, scheme: str) -> Headers:
        """The second half of :meth:`finish`: add the cookie, if any, and the headers for caches."""
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
        """Whether the session of a long-running request has ended in the meantime. This does not count as a use."""
        access = self._context.expiry.access(counts_as_use=False)
        if state.fate in (Fate.ENDED, Fate.DESTROYED) or access.now >= state.ends_at:
            return True
        try:
            self._context.storage.stat(state.owner, access)
        except SessionEnded:
            return True
        except StorageError:
            pass  # Unknown. The next use of the store raises the error.
        return False

    def _dump(self, issue: Issue, scheme: str) -> str:
        if issue.session_id is None:
            return self._cookie.dump_expired(scheme)
        return self._cookie.dump(issue.session_id, issue.issued_at, scheme, issue.is_permanent)

    def _is_cookie_barred(self, state: SessionState, headers: Headers) -> bool:
        """Whether shared caches may give this response to others, so that it must not set a cookie."""
        if not may_be_shared(headers):
            return False
        if state.use is Use.WRITTEN:
            logger.warning(
                "A request changed the visitor's session, but its response may be stored by shared caches, so it "
                "cannot set the cookie. Send it with Cache-Control: private."
            )
        return True

    def _has_ended(self, owner: Owner) -> bool:
        """Whether another request has ended a session that parallel requests share."""
        try:
            self._context.storage.stat(owner, self._context.expiry.access())
        except SessionEnded:
            return True
        except StorageError as error:
            logger.warning(
                "A response sets the cookie of a session that may have ended, because the storage could not be read: "
                "%s",
                error,
            )
        return False


def _never() -> bool:
    return False
