"""What a request has done to its session, and which session id its response sends the browser."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import NamedTuple

from ..owner import Owner, new_session_id, session_owner

# Seconds in which a browser may still send the former id, because the response with the new one is on its way. Within
# them, a request with an ended session does not begin a new one, whose cookie would replace the one in that response.
# HTTP/1.1 keeps six requests in flight, and users reload a page or click a button again within seconds.
GRACE = 5.0

# Seconds by which the clocks of two workers may differ, or one may be corrected, before it matters.
CLOCK_TOLERANCE = 60.0


class Cookie(Enum):
    """The cookie that came with the request."""

    MISSING = "no valid cookie came"
    WITHHELD = "none came, but the browser may have one that SameSite withheld"
    FOREIGN = "it is ignored, because another site sent the request, and not to show a page"
    UNREACHABLE = "none came, because the browser does not send it to this path"
    REFUSED = "none came, and the app does not let this request begin a session"
    CURRENT = "it came"
    STALE = "it came, but must be replaced: former key, another cookie path, dated in the future, or due again"


CANNOT_WRITE = (Cookie.UNREACHABLE, Cookie.REFUSED)
CANNOT_BRING = (Cookie.FOREIGN, *CANNOT_WRITE)


class Fate(Enum):
    """What has happened to the session in this request."""

    KEPT = "it is the cookie's session, unchanged"
    NEW = "it begins with this request, and no other request knows its id"
    INHERITED = "it may take over one of Flask's own cookies; whether it has any values is not known yet"
    SUCCEEDED = "it follows a session whose lifetime has ended, or Flask's own cookie; parallel requests share it"
    RENEWED = "regenerate() has given it another id, which parallel requests may share"
    EMPTIED = "it has no values left, so the browser need not keep its cookie"
    ENDED = "another request has just ended it, or given it another id"
    DESTROYED = "destroy() has ended it"


class Use(IntEnum):
    """What the request has done with its store."""

    NONE = 0
    READ = 1
    WRITTEN = 2


class Issue(NamedTuple):
    """The cookie that the response sets.

    :ivar session_id: the session id; None to delete the browser's cookie
    :ivar issued_at: when the id was issued, in seconds since the epoch
    :ivar is_permanent: whether it is a permanent session of Flask
    """

    session_id: str | None
    issued_at: float
    is_permanent: bool = False


class SessionState:
    """The session that a store belongs to, and what the request has done to it.

    :ivar owner: the owner of the values
    :ivar session_id: the current id; None for the store of a user id
    :ivar user: the owner name of the user who logged in with this request; None if none did
    :ivar issued_at: when the id was issued, in seconds since the epoch
    :ivar ends_at: when its lifetime ends, in seconds since the epoch
    :ivar arrived_at: when the request came, in seconds since the epoch; None for a store outside of a request
    :ivar ended_at: when ``destroy()`` ended the session, in seconds since the epoch
    :ivar is_named: whether the response depends on the visitor's name, which does not count as a use of the store
    :ivar is_answered: whether the response headers have been sent
    :ivar is_sent: whether they set the session's cookie
    :ivar is_first: whether this request began the session, if parallel requests share it
    :ivar is_in_wsgi_call: whether the response goes through the WSGI middleware, which adds the cookie
    :ivar is_permanent: whether it is a permanent session of Flask, whose cookie outlives the browser's run
    :ivar may_begin: returns whether a new session may begin if that of the cookie has ended; None for yes
    :ivar counts_as_use: returns whether a use of the store keeps the session alive; None for yes
    """

    session_id: str | None = None
    user: str | None = None
    issued_at = 0.0
    ends_at = math.inf
    arrived_at: float | None = None
    ended_at = 0.0
    cookie = Cookie.MISSING
    fate = Fate.KEPT
    use = Use.NONE
    is_named = False
    is_answered = False
    is_sent = False
    is_first = False
    is_in_wsgi_call = False
    is_permanent = False
    may_begin: Callable[[], bool] | None = None
    counts_as_use: Callable[[], bool] | None = None

    def __init__(self, owner: Owner) -> None:
        self.owner = owner

    @property
    def is_new(self) -> bool:
        """Whether the session began with this request."""
        return self.fate in (Fate.NEW, Fate.INHERITED, Fate.SUCCEEDED)

    @property
    def begins(self) -> bool:
        """Whether the response sends the id of a new session, so that this request sends the signal."""
        return self.is_first or self.fate in (Fate.NEW, Fate.DESTROYED)

    @property
    def is_untouched(self) -> bool:
        """Whether the response neither changes nor depends on the cookie's session."""
        return self.use is Use.NONE and self.fate is Fate.KEPT and not self.is_named

    def switch_to(self, fate: Fate, session_id: str, issued_at: float, lifetime: float) -> None:
        """Continue with another session id."""
        owner = session_owner(session_id)
        if owner.name != self.owner.name:
            self.is_permanent = False
        self.fate, self.session_id, self.owner = fate, session_id, owner
        self.issued_at, self.ends_at = issued_at, issued_at + lifetime
        self.user = None

    @property
    def is_lost(self) -> bool:
        """Whether no later request can find the session, because the response was sent without its cookie."""
        return self.is_answered and self.fate is Fate.NEW and not self.is_sent

    def refuse(self) -> bool:
        """Ask the app whether a new session may replace the ended one. Returns whether it refuses."""
        if self.may_begin is None or self.may_begin():
            return False
        self.cookie = Cookie.REFUSED
        return True

    def confirm_inherited(self) -> None:
        """The session that was taken over has values, so the response may replace Flask's cookie."""
        if self.fate is Fate.INHERITED:
            self.fate = Fate.SUCCEEDED

    def reissue_cookie(self) -> None:
        """Let the response set the cookie again."""
        if self.cookie is Cookie.CURRENT:
            self.cookie = Cookie.STALE
        self.use = self.use or Use.READ

    def restorer(self) -> Callable[[], None]:
        """A function that restores the current state, for when a transaction is rolled back."""
        now = self.fate, self.session_id, self.owner, self.issued_at, self.ends_at, self.ended_at, self.user
        was_first = self.is_first

        def restore() -> None:
            self.fate, self.session_id, self.owner, self.issued_at, self.ends_at, self.ended_at, self.user = now
            self.is_first = was_first

        return restore

    def is_past_grace(self, ended_at: float, now: float) -> bool:
        """Whether the browser should by now have the id that replaced a session's, which ended at that time.

        An end in the future was set by a clock that has been corrected since.
        """
        if self.arrived_at is None:
            return False
        return self.arrived_at - ended_at > GRACE or now < ended_at - CLOCK_TOLERANCE

    # Which id the response sends, by the cookie that came, what happened to the session, and the use of the store:
    #
    #   cookie       fate        use       the response brings
    #   -----------  ----------  --------  --------------------------------------------------------------------------
    #   UNREACHABLE  any         any       nothing: the browser would not send it here
    #   REFUSED      any         any       nothing: no session begins
    #   FOREIGN      any         any       nothing: it would replace the cookie of the app's iframe
    #   WITHHELD     NEW         WRITTEN   the new id, without which what was written is lost
    #   WITHHELD     all others  any       nothing: it would replace a cookie that the browser may have
    #   any          INHERITED   any       nothing: the browser still has Flask's own cookie
    #   any          ENDED       any       nothing: the response to the request that ended it brings the next id
    #   any          DESTROYED   any       an id under which nothing is stored
    #   any          NEW         NONE      the new id if cookies are eager, else nothing
    #   any          NEW         any other the new id
    #   any          SUCCEEDED   any       the successor's id, unless another request has ended that session
    #   any          RENEWED     any       the new id, unless another request has ended that session
    #   any          EMPTIED     any       the cookie is deleted, unless cookies are eager or the session has ended
    #   CURRENT      KEPT        any       nothing
    #   STALE        KEPT        NONE      nothing: without a use of the store, the id is not checked
    #   STALE        KEPT        any other the same id in a new cookie, unless another request has ended the session

    def issue(self, is_eager: bool, has_ended: Callable[[Owner], bool], now: Callable[[], float]) -> Issue | None:
        """The cookie that the response must set; None if the browser keeps the one it has.

        :param is_eager: whether a new visitor gets a cookie even if the store was not used
        :param has_ended: asks the storage whether a session has ended
        :param now: returns the time, in seconds since the epoch
        """
        if self.fate is Fate.KEPT and self.cookie is Cookie.CURRENT:  # Almost all requests.
            return None
        if self.session_id is None or self.cookie in CANNOT_BRING or self.fate in (Fate.ENDED, Fate.INHERITED):
            return None
        if self.cookie is Cookie.WITHHELD and (self.fate is not Fate.NEW or self.use is not Use.WRITTEN):
            return None
        if self.fate is Fate.DESTROYED:
            return Issue(new_session_id(), now())
        if self.fate is Fate.EMPTIED:
            return None if is_eager or has_ended(self.owner) else Issue(None, self.issued_at)
        present = Issue(self.session_id, self.issued_at, self.is_permanent)
        if self.fate is Fate.NEW:
            return present if is_eager or self.use else None
        if self.fate is Fate.KEPT and not (self.cookie is Cookie.STALE and self.use):
            return None
        return None if has_ended(self.owner) else present
