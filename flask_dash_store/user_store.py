"""A visitor's store: the mapping, and the session that it belongs to."""

from __future__ import annotations

import math

from .errors import NotASession, OutsideCookiePath, ResponseStarted, TamperedValue
from .expiry import Access
from .mapping import StoredMapping
from .owner import new_session_id, session_owner


class UserStore(StoredMapping):
    """The values of one owner: a session, or a user id. It behaves as a dict does, with these differences.

    - Keys are strings of 1 to 512 characters, without NUL, ``/``, ``%`` and lone surrogates. Values are anything
      picklable, and what is read is a copy: to change it in place, use :meth:`edit`.
    - Each key is read and written by itself, at once, so that callbacks in parallel lose nothing of each other's.
    - ``setdefault``, ``pop``, ``popitem``, ``update``, ``clear``, ``increment``, ``edit`` and ``transaction`` are
      atomic across threads and processes.
    - ``copy``, ``|``, ``values`` and ``items`` read all values as they are at one point in time.

    Any operation raises :class:`~flask_dash_store.errors.StorageError` when the storage fails. Reading raises
    :class:`~flask_dash_store.errors.TamperedValue` for bytes that this app did not write, and
    :class:`~flask_dash_store.errors.UnreadableValue` for a value whose class has gone. Writing raises
    :class:`~flask_dash_store.errors.UnstorableValue`, :class:`~flask_dash_store.errors.ValueTooLarge`,
    :class:`~flask_dash_store.errors.QuotaExceeded` or, once the session has ended,
    :class:`~flask_dash_store.errors.SessionEnded`; each of them leaves everything as it was.

    Stores are made by :class:`~flask_dash_store.UserStoreMiddleware`: ``g.user_store``, ``for_user`` and ``open``.
    """

    @property
    def session_id(self) -> str | None:
        """The id of the session, for :meth:`UserStoreMiddleware.open`; None for the store of a user id.

        Whoever has it has the session: it belongs in no log, page or URL.
        """
        self._trace.was_used = True
        return self._trace.session_id

    @property
    def is_new(self) -> bool:
        """Whether the visitor came without a valid session, so that this one begins with this request."""
        self._trace.was_used = True
        return self._trace.is_new

    def regenerate(self) -> None:
        """Give the session a new id, and all its values with it. Call it at login and at each change of rights.

        The old id is dead at once, in all processes, so that an id that was known before the login opens nothing
        after it (OWASP Session Management Cheat Sheet, "Renew the Session ID After Any Privilege Level Change").

        :raises SessionEnded: when the session has ended, perhaps by a request in parallel
        :raises NotASession: on the store of a user id
        :raises ResponseStarted: when the response's headers have been sent, so that they cannot bring the new id
        """
        self._check_session("regenerate")
        if self._trace.is_answered:
            raise ResponseStarted(
                "regenerate() came after the response's headers were sent, so the browser could not be told the new "
                "id. Call it before the response begins to stream."
            )
        old_owner, new_id = self._owner, new_session_id()
        new_owner = session_owner(new_id)

        def re_sign(key: str, payload: bytes) -> bytes:
            try:
                return self._codec.re_sign(old_owner, new_owner, key, payload)
            except TamperedValue:
                return payload  # It stays what it is, and costs its own key alone.

        self._restore_on_rollback()
        self._writing(lambda access: self._storage.move(old_owner, new_owner, re_sign, access))
        self._owner = new_owner
        self._trace.session_id, self._trace.ends_at = new_id, math.inf

    def destroy(self) -> None:
        """End the session and delete its values. Call it at logout.

        The id is dead at once, in all processes; this store is empty and can no more be written to. The browser is
        given the id of a new, empty session with the response.

        :raises NotASession: on the store of a user id
        """
        self._check_session("destroy")

        def end(access: Access) -> float:
            ended_at = self._storage.end(self._owner, access)
            if ended_at == access.now:  # and not by another request before
                self._trace.was_destroyed = True
            return ended_at

        self._restore_on_rollback()
        self._trace.ended_at = self._writing(end)

    def _restore_on_rollback(self) -> None:
        """What a transaction undoes in the storage must not be told to the browser."""
        trace, owner = self._trace, self._owner
        before = trace.session_id, trace.ends_at, trace.was_destroyed, trace.ended_at

        def restore() -> None:
            self._owner = owner
            trace.session_id, trace.ends_at, trace.was_destroyed, trace.ended_at = before

        self._storage.on_rollback(restore)

    def _check_session(self, call: str) -> None:
        if self._trace.session_id is None:
            raise NotASession(f"{call}() ends a session, but this store belongs to a user id; clear() empties it.")

    def _access(self) -> Access:
        trace = self._trace
        trace.was_used = True
        counts = trace.counts_as_use is None or trace.counts_as_use()
        return self._backend.expiry.access(trace.ends_at, counts)

    def _write_access(self) -> Access:
        if self._trace.is_out_of_reach:
            raise OutsideCookiePath(
                "This view lies outside the path of the session's cookie, so the browser would never find again what "
                "is written here. Set USER_STORE_COOKIE_PATH (cookie_path=) to a path that holds both, such as '/'."
            )
        return super()._write_access()
