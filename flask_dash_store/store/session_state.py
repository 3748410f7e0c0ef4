"""What a request has done to its session, and so which session id its response gives the browser."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import NamedTuple

from ..owner import Owner, new_session_id, session_owner

# A browser learns its new id from a response. For as long as that may be on its way, its other requests come with the
# id before, and a new session for each of them would replace the one that the response brings. HTTP/1.1 keeps six
# requests in flight, and a page is reloaded or a button clicked again within seconds; a later request has missed it.
GRACE = 5.0

# How far the clocks of two workers may differ, or one be put right, before it matters.
CLOCK_TOLERANCE = 60.0


class Cookie(Enum):
    """What the request says of the browser's cookie."""

    MISSING = "no valid one came"
    WITHHELD = "none came, but SameSite may have kept the browser from sending the one it has"
    FOREIGN = "none counts, for another site asks, and not for a page"
    UNREACHABLE = "none came, for the browser sends it under other paths than this"
    REFUSED = "none came, and the app begins no session for such a request"
    CURRENT = "it came"
    STALE = "it came, but with a former key's signature, from another cookie path, dated in the future, or is due again"


CANNOT_WRITE = (Cookie.UNREACHABLE, Cookie.REFUSED)
CANNOT_BRING = (Cookie.FOREIGN, *CANNOT_WRITE)


class Fate(Enum):
    """What has become of the session with this request."""

    KEPT = "it is the cookie's, as it was"
    NEW = "it begins with this request, which alone knows its id"
    INHERITED = "Flask's own cookie stands for it, and it is not known whether it holds anything"
    SUCCEEDED = "it follows one whose lifetime has ended, or Flask's own cookie, and requests in parallel share it"
    RENEWED = "regenerate() has given it another id, which requests in parallel may share"
    EMPTIED = "nothing is left in it, so that the browser need not keep its cookie"
    ENDED = "another request has just ended it, or given it another id"
    DESTROYED = "destroy() has ended it"


class Use(IntEnum):
    """What the request has done with its store."""

    NONE = 0
    READ = 1
    WRITTEN = 2


class Issue(NamedTuple):
    """What the browser is sent: a session id, and when it was issued, in seconds since the epoch.

    ``session_id`` is None where the browser is to forget the one that it has. ``is_permanent`` says whether it keeps a
    cookie of Flask's session when it is closed.
    """

    session_id: str | None
    issued_at: float
    is_permanent: bool = False


class SessionState:
    """The session that a store belongs to, and what was done to it.

    :ivar owner: whose values these are
    :ivar session_id: the present id; None for the store of a user id
    :ivar user: the name of the user's owner who has logged in with this request; None for none
    :ivar issued_at: when that id was issued, in seconds since the epoch
    :ivar ends_at: when its lifetime ends, in seconds since the epoch
    :ivar arrived_at: when the request came; None for a store that belongs to no request
    :ivar ended_at: when ``destroy()`` ended the session
    :ivar is_named: whether the visitor's name was asked for, which does not count as a use of the store
    :ivar is_answered: whether the response's headers are on their way
    :ivar is_sent: whether they bring the browser the session's cookie
    :ivar is_first: whether, of the requests that share a session which has begun, this is the one that began it
    :ivar is_in_wsgi_call: whether they will come by the middleware, which adds the cookie to them
    :ivar is_permanent: whether the browser keeps the cookie of Flask's session when it is closed
    :ivar may_begin: says whether another session may begin when that of the cookie has ended; None for yes
    :ivar counts_as_use: says whether what is done keeps the session alive; None for yes
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
        """Whether the session id that the browser is sent is a new session's, of which no other request tells."""
        return self.is_first or self.fate in (Fate.NEW, Fate.DESTROYED)

    @property
    def is_untouched(self) -> bool:
        """Whether the session is the cookie's, and the response does not depend on it."""
        return self.use is Use.NONE and self.fate is Fate.KEPT and not self.is_named

    def switch_to(self, fate: Fate, session_id: str, issued_at: float, lifetime: float) -> None:
        """Go on with another session id."""
        owner = session_owner(session_id)
        if owner.name != self.owner.name:
            self.is_permanent = False
        self.fate, self.session_id, self.owner = fate, session_id, owner
        self.issued_at, self.ends_at = issued_at, issued_at + lifetime
        self.user = None

    @property
    def is_lost(self) -> bool:
        """Whether no request but this one will ever know the session, as its response has gone without the cookie."""
        return self.is_answered and self.fate is Fate.NEW and not self.is_sent

    def refuse(self) -> bool:
        """Begin no session instead of the one that has ended, if the app wants none. Returns whether that is so."""
        if self.may_begin is None or self.may_begin():
            return False
        self.cookie = Cookie.REFUSED
        return True

    def confirm_inherited(self) -> None:
        """What was inherited is there, so that the browser's next cookie may be the session's own."""
        if self.fate is Fate.INHERITED:
            self.fate = Fate.SUCCEEDED

    def reissue_cookie(self) -> None:
        """Have the cookie sent again."""
        if self.cookie is Cookie.CURRENT:
            self.cookie = Cookie.STALE
        self.use = self.use or Use.READ

    def restorer(self) -> Callable[[], None]:
        """A call that brings the session back as it is now, for when a transaction is rolled back."""
        now = self.fate, self.session_id, self.owner, self.issued_at, self.ends_at, self.ended_at, self.user
        was_first = self.is_first

        def restore() -> None:
            self.fate, self.session_id, self.owner, self.issued_at, self.ends_at, self.ended_at, self.user = now
            self.is_first = was_first

        return restore

    def is_past_grace(self, ended_at: float, now: float) -> bool:
        """Whether the browser should know another id by now than that of a session which ended then.

        A session whose end lies in the future ended by a clock that has been put right since.
        """
        if self.arrived_at is None:
            return False
        return self.arrived_at - ended_at > GRACE or now < ended_at - CLOCK_TOLERANCE

    # Which id the browser is sent, by what came, what became of the session, and what was done with the store:
    #
    #   cookie       fate        use       the response brings
    #   -----------  ----------  --------  --------------------------------------------------------------------------
    #   UNREACHABLE  any         any       nothing: the browser would not send it here
    #   REFUSED      any         any       nothing: no session begins
    #   FOREIGN      any         any       nothing: it would replace the cookie of the app's iframe
    #   WITHHELD     NEW         WRITTEN   the new id, without which what was written is lost
    #   WITHHELD     all others  any       nothing: it would replace the cookie that the browser may have
    #   any          INHERITED   any       nothing: the browser has Flask's own cookie still
    #   any          ENDED       any       nothing: the response to the request that ended it brings the next id
    #   any          DESTROYED   any       an id that nothing is stored under
    #   any          NEW         NONE      the new id if cookies are eager, or else nothing
    #   any          NEW         any other the new id
    #   any          SUCCEEDED   any       the successor's id, unless another request has ended that session, too
    #   any          RENEWED     any       the other id, unless another request has ended that session
    #   any          EMPTIED     any       nothing to keep, unless cookies are eager or another request has ended it
    #   CURRENT      KEPT        any       nothing
    #   STALE        KEPT        NONE      nothing: a request that uses no store does not ask whether the id is alive
    #   STALE        KEPT        any other the same id in a cookie as it is now, unless another request has ended it

    def issue(self, is_eager: bool, has_ended: Callable[[Owner], bool], now: Callable[[], float]) -> Issue | None:
        """The session id that the browser has to be sent; None when it has the right one, or is sent a newer one.

        :param is_eager: whether a new visitor gets a cookie although the store was not used
        :param has_ended: asks the storage whether a session has ended
        """
        if self.fate is Fate.KEPT and self.cookie is Cookie.CURRENT:  # As with almost all requests.
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
