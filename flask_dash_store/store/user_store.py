"""A visitor's store: a mapping, and the session to which it belongs."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import NotASession, OutsideCookiePath, ResponseStarted, SessionEnded, SessionRefused
from ..expiry import Access
from ..job_handle import Job, JobHandles
from ..owner import (
    FLASK_SESSION_KEY,
    TABS_PREFIX,
    DerivedIds,
    Owner,
    is_own_key,
    new_session_id,
    renewed_session_id,
    session_digest,
    session_owner,
    user_hash,
    user_owner,
)
from ..signals import How, Signals
from ..storage import Storage
from ..storage.base import SessionInfo
from ..storage.transaction import on_commit, on_rollback
from .base import StoreContext, write_listeners
from .mapping import StoredMapping
from .session_state import CANNOT_WRITE, Cookie, Fate, SessionState, Use
from .views import FEW

HIDDEN_KEYS = (TABS_PREFIX, FLASK_SESSION_KEY)
"""If a session has keys that are not the app's, it has one of these."""


@dataclass(frozen=True, kw_only=True)
class SessionContext(StoreContext):
    """What the stores of an app's sessions share, in addition to what all of its stores share.

    :param lifetime: seconds after which a session ends, however active it is
    :param ids: derives the ids on which parallel requests must agree
    :param handles: makes and reads job handles
    :param visitor_key: the key from which the names of visitors are derived
    :param app: the app's name, unique in this process
    :param signals: sends the app's signals
    :param tab_ttl: idle seconds after which a tab's values are deleted
    """

    lifetime: float
    ids: DerivedIds
    handles: JobHandles
    visitor_key: bytes
    app: str
    signals: Signals
    tab_ttl: float

    def end(self, owner: Owner, access: Access, how: How, user_id: str | None = None) -> float:
        """End a session, and send the signal if it had not ended before. Returns when it ended."""
        if not self.signals.tells_of_ends:
            return self.storage.end(owner, access)
        keys: list[str] = []
        with suppress(SessionEnded):
            # At time -1, keys that have expired but are still stored are listed, too.
            keys = [info.key for info in self.storage.describe(owner, Access(-1.0, math.inf, math.inf))]
        ended_at = self.storage.end(owner, access)
        if ended_at == access.now:
            on_commit(self.storage, lambda: self.signals.ended(owner, how, keys, user_id))
        return ended_at


class UserStore(StoredMapping):
    """The values of a session, or of a user id. It behaves like a dict, with these differences.

    - Keys are strings of 1 to 512 characters, without NUL, ``/``, ``%`` or lone surrogates. A value can be anything
      that can be pickled. What you read is a copy: to change a value in place, use :meth:`edit`.
    - Each key is read and written separately, at once, so parallel callbacks never overwrite each other's keys.
    - ``setdefault``, ``pop``, ``popitem``, ``update``, ``clear``, ``increment``, ``edit`` and ``transaction`` are
      atomic across threads and processes.
    - ``copy``, ``|``, ``values`` and ``items`` read all values at one point in time. So does an iteration over at most
      ten keys; with more keys, it reads the first key alone, and the others together when the second one is needed.

    Every operation raises :class:`~flask_dash_store.errors.StorageError` if the storage fails, and
    :class:`~flask_dash_store.errors.InvalidKey` or :class:`~flask_dash_store.errors.InvalidKeyType` for an invalid
    key. Reading raises :class:`~flask_dash_store.errors.TamperedValue` for bytes that this app did not write, and
    :class:`~flask_dash_store.errors.UnreadableValue` for a value whose class is gone. Writing raises
    :class:`~flask_dash_store.errors.UnstorableValue`, :class:`~flask_dash_store.errors.ValueTooLarge`,
    :class:`~flask_dash_store.errors.QuotaExceeded`, :class:`~flask_dash_store.errors.TooManyKeys`,
    :class:`~flask_dash_store.errors.OutsideCookiePath`, :class:`~flask_dash_store.errors.SessionRefused`,
    :class:`~flask_dash_store.errors.ResponseStarted` if a new visitor's response has started without the cookie, or,
    if the session has just ended, :class:`~flask_dash_store.errors.SessionEnded`. An operation that raises changes
    nothing.

    If the session ended more than five seconds before the request arrived, a new session replaces it, and the response
    brings the browser its cookie. The store is then empty and can be written to.

    You get stores from :class:`~flask_dash_store.UserStoreMiddleware`: as ``g.user_store``, from ``for_user`` and from
    ``open``.
    """

    _context: SessionContext
    _storage: Storage

    if TYPE_CHECKING:  # Types only: an __init__ of its own would cost each request a frame.

        def __init__(self, context: SessionContext, state: SessionState) -> None: ...

    @property
    def session_id(self) -> str | None:
        """The id of the session, for :meth:`UserStoreMiddleware.open`. None for the store of a user id, and in a job.

        It opens the session for anyone who has it, so keep it out of logs, pages, URLs and queues. For a job, use
        :meth:`job_handle` instead.
        """
        self._state.use = self._state.use or Use.READ
        return self._state.session_id

    @property
    def is_new(self) -> bool:
        """Whether the request came without a valid session, so that this session begins with it."""
        self._state.use = self._state.use or Use.READ
        return self._state.is_new

    def __len__(self) -> int:
        if self._state.owner.session is None:  # A user id has neither tabs nor flask.session.
            return super().__len__()
        keys: list[str] = self._read(self._first_keys, [])
        if len(keys) <= FEW:
            return len(self._visible(keys))
        has_hidden = self._read(lambda owner, access: bool(self._storage.versions(owner, HIDDEN_KEYS, access)), False)
        return len(self.describe()) if has_hidden else super().__len__()

    def _first_keys(self, owner: Owner, access: Access) -> list[str]:
        """A few keys, and one more if there is one. To count them is not a use of the session."""
        return self._storage.keys(owner, access._replace(touch_threshold=math.inf), FEW + 1)

    def _visible(self, keys: list[str]) -> list[str]:
        if self._state.owner.session is None:
            return keys
        return [key for key in keys if not is_own_key(key)]

    def job_handle(self) -> str:
        """A string with which a job, in this process or another, opens this store: ``stores.open(handle)``.

        It cannot open the session over HTTP, so it may be kept in a queue and its backups. It keeps working when a
        login gives the session a new id. It opens nothing after the session has ended, or after the end of the lifetime
        that the session has now. Pass it only to the app's own jobs, and never open a handle that a browser has sent.

        It counts as a write: the response brings a new visitor the cookie, so that the browser later finds what the job
        has stored.

        :returns: about 120 characters: letters, digits, ``-``, ``_`` and ``.``
        :raises NotASession: on the store of a user id, which a job opens with ``for_user``
        :raises SessionEnded: if the session has ended
        :raises OutsideCookiePath: if the browser never sends the session's cookie to the path of this view
        :raises SessionRefused: if USER_STORE_STARTS_SESSION does not let this request begin a session
        """
        return self._write(self._handle)

    def _handle(self, owner: Owner, access: Access) -> str:
        if owner.session is None:
            raise NotASession(
                "job_handle() is for a session. In the job, open this store with middleware.for_user(user_id)."
            )
        # A job survives logins. So it must not be started with an id from before a login, which may have been planted.
        self._storage.stat(owner, access)
        ends_at = min(self._state.ends_at, access.now + self._context.lifetime)
        return self._context.handles.dump(Job(owner, ends_at))

    def regenerate(self, user_id: str | int | None = None) -> None:
        """Give the session a new id, and keep its values. Call it at login and whenever the visitor's rights change.

        The old id is invalid at once, in all processes, so an id that was known before the login opens nothing
        afterwards (OWASP Session Management Cheat Sheet, "Renew the Session ID After Any Privilege Level Change").

        If the session belongs to a different user, it ends, and a new, empty one begins. A new one also begins if
        another request has ended the session in the meantime. But if the same user logs in twice from the same session
        within five seconds, as after a double click or a lost response, and both calls pass the user id, the second
        login continues the session of the first one.

        :param user_id: who has logged in. The session is bound to this user until its values expire, for
            :meth:`UserStoreMiddleware.sessions` and :meth:`UserStoreMiddleware.end_sessions`. None leaves the user as
            it is. The id can open the session that the same user's login has just begun, so pass the id of the
            account whose password you have checked, never one taken from the request.
        :raises NotASession: on the store of a user id
        :raises OutsideRequest: in a job
        :raises ResponseStarted: if the response headers have been sent, so that they cannot bring the new id
        :raises SessionEnded: on a store from ``open``, if its session has ended
        :raises OutsideCookiePath: if the browser never sends the session's cookie to the path of this view
        :raises SessionRefused: if USER_STORE_STARTS_SESSION does not let this request begin a session
        :raises InvalidKey: if the user id is too long or contains a lone surrogate
        :raises InvalidKeyType: if the user id is neither str nor int
        """
        session_id, state = self._require_session("regenerate"), self._state
        if state.is_answered:
            raise ResponseStarted(
                "regenerate() was called after the response headers were sent, so they could not bring the browser the "
                "new id. Call it before the response begins to stream."
            )
        user = None if user_id is None else user_owner(user_id)
        self._check_reach()
        if state.fate is Fate.NEW and user is None:
            state.use = state.use or Use.READ  # Only this request knows its id, so it need not change.
            return
        state.use = Use.WRITTEN
        on_rollback(self._storage, state.restorer())
        is_done = user is None or user.name == state.user  # With Flask-Login, login_user() has already done it.
        if state.fate is Fate.DESTROYED:
            self._begin_instead(session_id, user, state.ended_at)
        elif user is not None and not is_done and self._is_of_another(user):
            self._begin_instead(session_id, user, self._end(self._access()))
        elif state.fate is Fate.NEW:
            self._bind(session_id, None if is_done else user)
        elif state.fate is not Fate.RENEWED or not is_done:
            try:
                self._renew(session_id, user)
            except SessionEnded as ended:
                self._join_or_begin(session_id, user, ended)
        if user is not None and not is_done:
            owner = state.owner
            on_commit(self._storage, lambda: self._context.signals.logged_in(owner, user))

    def destroy(self) -> None:
        """End the session and delete its values. Call it at logout.

        The id is invalid at once, in all processes. This store is then empty, and writing to it raises SessionEnded.
        The response gives the browser the id of a new, empty session. It may also be called on a session that has
        already ended.

        :raises NotASession: on the store of a user id
        :raises OutsideRequest: in a job
        :raises OutsideCookiePath: if the browser never sends the session's cookie to the path of this view
        :raises SessionRefused: if USER_STORE_STARTS_SESSION does not let this request begin a session
        """
        self._require_session("destroy")
        self._check_reach()
        state = self._state
        if state.fate is Fate.DESTROYED:
            return
        access = self._access()
        is_stored = state.fate is not Fate.NEW or state.use is Use.WRITTEN
        ended_at = self._end(access) if is_stored else access.now
        on_rollback(self._storage, state.restorer())
        state.use, state.fate, state.ended_at = Use.WRITTEN, Fate.DESTROYED, ended_at
        if write_listeners:
            self._notify(None)

    def _end(self, access: Access) -> float:
        """End the session. Returns when it ended."""
        state = self._state
        if state.fate is Fate.NEW:  # No signal was sent when it began.
            return self._storage.end(state.owner, access)
        return self._context.end(state.owner, access, "destroyed")

    def _require_session(self, call: str) -> str:
        """The session's id.

        :param call: the method that needs it, for the error
        :raises NotASession: on the store of a user id
        """
        if self._state.session_id is None:
            raise NotASession(
                f"{call}() is for a session, but this store belongs to a user id. To empty it, call clear()."
            )
        return self._state.session_id

    def _renew(self, session_id: str, user: Owner | None) -> None:
        context, access = self._context, self._first_access()
        if user is None:
            new_id = renewed_session_id(session_id)
        else:
            new_id = context.ids.after_login(session_id, access.now, user.name)
        self._storage.renew(
            self._state.owner, session_digest(new_id), access, None if user is None else user_hash(user)
        )
        self._state.switch_to(Fate.RENEWED, new_id, access.now, context.lifetime)
        self._state.user = None if user is None else user.name
        owner = self._state.owner
        on_commit(self._storage, lambda: context.signals.regenerated(owner, user))

    def _is_of_another(self, user: Owner) -> bool:
        """Whether the session is bound to a different user."""
        state = self._state
        if state.fate is Fate.NEW:  # Only this request knows its id.
            return state.user not in (None, user.name)
        with suppress(SessionEnded):
            return self._storage.stat(state.owner, self._first_access()).user not in (None, user_hash(user))
        return False

    def _join_or_begin(self, session_id: str, user: Owner | None, ended: SessionEnded) -> None:
        """Continue after another request has ended the session: with its successor, if the same user has logged in.

        The other request may have been the same login, whose response the browser dropped after a double click. The id
        that it gave the session is derived here again, and the storage knows whether it is valid. An attacker who
        planted the old id, and logs in as another user, derives a different one.
        """
        state, access = self._state, self._first_access()
        if state.arrived_at is None:
            raise ended
        if user is not None and not state.is_past_grace(ended.ended_at, access.now):
            candidate = self._context.ids.after_login(session_id, ended.ended_at, user.name)
            with suppress(SessionEnded):
                self._storage.stat(session_owner(candidate), access)
                state.switch_to(Fate.RENEWED, candidate, ended.ended_at, self._context.lifetime)
                state.user = user.name
                return
        if state.refuse():
            self._check_reach()
        self._begin_instead(session_id, user, ended.ended_at)

    def _begin_instead(self, session_id: str, user: Owner | None, ended_at: float) -> None:
        """Begin a session in place of one that has ended.

        Its id is derived from the old one if possible, so that a double click of the same user begins only one session.
        Without a cookie it is random, because no other request has the old id.
        """
        state, now = self._state, self._context.expiry.clock()
        has_cookie = state.cookie in (Cookie.CURRENT, Cookie.STALE)
        if user is not None and has_cookie and not state.is_past_grace(ended_at, now):
            new_id = self._context.ids.after_end(session_id, ended_at, user.name)
            with suppress(SessionEnded):  # The user may have logged out of that session as well.
                self._bind(new_id, user)
                state.switch_to(Fate.RENEWED, new_id, ended_at, self._context.lifetime)
                state.user, state.is_first = user.name, True
                return
        self._begin_another(user)

    def _begin_another(self, user: Owner | None) -> None:
        new_id = new_session_id()
        self._state.switch_to(Fate.NEW, new_id, self._context.expiry.clock(), self._context.lifetime)
        self._bind(new_id, user)

    def _bind(self, session_id: str, user: Owner | None) -> None:
        """Bind the session to a user, and keep its id."""
        if user is not None:
            owner = session_owner(session_id)
            self._storage.renew(owner, session_digest(session_id), self._first_access(), user_hash(user))
            self._state.user = user.name

    def _first_access(self) -> Access:
        """An access for a session that begins now."""
        expiry = self._context.expiry
        return expiry.access(expiry.clock() + self._context.lifetime)

    # The access of each operation

    def _access(self) -> Access:
        state = self._state
        if not state.use:
            state.use = Use.READ
        counts = state.counts_as_use
        return self._context.expiry.access(state.ends_at, counts is None or counts())

    def _write_access(self) -> Access:
        state = self._state
        if state.cookie in CANNOT_WRITE or state.fate is Fate.DESTROYED:
            self._check_reach()
            raise SessionEnded(state.ended_at)
        if state.is_lost:
            raise ResponseStarted(
                "This new visitor's first write came after the response headers were sent. They did not set the "
                "cookie, so the browser could never find the value again. Read or write the store before the response "
                "begins to stream."
            )
        state.use = Use.WRITTEN
        counts = state.counts_as_use
        return self._context.expiry.access(state.ends_at, counts is None or counts())

    def _check_reach(self) -> None:
        if self._state.cookie is Cookie.UNREACHABLE:
            raise OutsideCookiePath(
                "This view is outside the path of the session's cookie, so the browser could never find again what is "
                "written here. Set USER_STORE_COOKIE_PATH (cookie_path=) to a path that covers the view, such as '/'."
            )
        if self._state.cookie is Cookie.REFUSED:
            raise SessionRefused(
                "This request came without a session, and USER_STORE_STARTS_SESSION (starts_session=) does not let it "
                "begin one, so nothing can be stored. Use middleware.for_user(id) with the client's own id instead."
            )

    def _recover(self, ended: SessionEnded) -> bool:
        state = self._state
        if state.session_id is None or state.fate is Fate.DESTROYED:
            return False
        now = self._context.expiry.clock()
        if state.is_answered or not state.is_past_grace(ended.ended_at, now):
            state.fate = Fate.ENDED
            return False
        state.switch_to(Fate.NEW, new_session_id(), now, self._context.lifetime)
        state.refuse()  # Then reads find nothing, and writes raise.
        return True


@dataclass(frozen=True)
class UserSession:
    """One session of a user, for example for a list of "your devices". It does not contain the session's id.

    :ivar created_at: when its first value was stored, in UTC
    :ivar last_used: when it was last used, in UTC, accurate to a twentieth of USER_STORE_TTL. In the last
        USER_STORE_TTL of the session's lifetime, it is the time at which that period began.
    :ivar nbytes: how many bytes its keys and values take
    """

    created_at: datetime
    last_used: datetime
    nbytes: int

    @classmethod
    def of(cls, info: SessionInfo, ttl: float) -> UserSession:
        """The public form of what a storage knows of a session.

        :param ttl: the app's idle timeout in seconds
        """
        last_used = max(info.created_at, info.expires - ttl)
        return cls(datetime.fromtimestamp(info.created_at, UTC), datetime.fromtimestamp(last_used, UTC), info.nbytes)
