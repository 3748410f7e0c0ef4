"""The writing half of the SQLite storage: one statement, or where it must be one transaction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TypeVar

from ...buffers import Stored
from ...errors import StorageFull, UserStoreError
from ...expiry import Access
from ...owner import Owner
from ..base import KeyExpiry, Limits
from . import schema
from .maintenance import forget_files
from .reader import Reader, check_session
from .reserve import Reserve
from .transaction import Row, Transaction

T = TypeVar("T")

# What ends with a session is deleted at once when it is little, and else by maintenance: no other visitor waits.
FEW_KEYS = 64
FEW_BYTES = 2**20


class Writer(Reader):
    """What a storage writes."""

    _limits: Limits
    _reserve: Reserve | None

    def set(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        payload, buffers = value
        if buffers is None and key_expires != "keep":
            name, session = owner
            now, expires, threshold = access
            earliest, latest = (-inf, inf) if threshold == inf else (expires - threshold, expires + threshold)
            most_bytes = len(payload) + 4 * len(key)  # UTF-8 takes four bytes for a character at the most.
            args = (
                f"{name}/{key}", payload, key_expires, name, session, now, earliest, latest, most_bytes, *self._limits
            )  # fmt: skip
            if self._database.change(schema.SET, args):
                return
        self._put(owner, key, value, access, key_expires)

    def _put(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry) -> None:
        payload, buffers = value
        file, file_bytes, boot = (buffers.name, buffers.nbytes, self._boot) if buffers else (None, 0, None)
        if buffers is not None:
            self._buffers.write(buffers)
        try:
            with self._database.transaction() as transaction:
                if file is not None:
                    transaction.on_rollback(partial(self._buffers.remove, [file]))
                self._begin_use(transaction, owner, access)
                kept = self._make_room(transaction, owner, key, len(payload) + file_bytes, access)
                expires = kept if key_expires == "keep" else key_expires
                transaction.execute(schema.PUT, (f"{owner.name}/{key}", payload, expires, file, file_bytes, boot))
        except UserStoreError:
            if file is not None:  # When no transaction has begun, it has not rolled back either.
                self._buffers.remove([file])
            raise

    def _open(self, transaction: Transaction, owner: Owner, access: Access) -> float | None:
        """The expiry of the owner; None when it has expired, or is not known. Then its values are gone now.

        :raises SessionEnded: when another session id is the owner's, or none
        """
        for expiry, session, renewed, *_ in transaction.execute(schema.SESSION, (owner.name,)):
            check_session(owner, session, renewed)
            if access.is_future(expiry):
                return expiry
        self._delete_values(transaction, schema.CLEAR, owner.name)
        return None

    def _begin_use(self, transaction: Transaction, owner: Owner, access: Access) -> None:
        """Move the owner's expiry when that is due, or begin it."""
        expiry = self._open(transaction, owner, access)
        if expiry is None:
            transaction.execute(schema.BEGIN_SESSION, (owner.name, access.expires, owner.session, access.now))
        else:
            self._move_expiry(transaction, owner, expiry, access)

    def _move_expiry(self, transaction: Transaction, owner: Owner, expiry: float, access: Access) -> None:
        if access.is_touch_due(expiry):
            args = (access.expires, owner.name, owner.session, access.now, access.touch_threshold)
            transaction.execute(schema.TOUCH, args)

    def _make_room(self, transaction: Transaction, owner: Owner, key: str, nbytes: int, access: Access) -> float | None:
        """See that a value fits in the place of what is there, and return when that expires by itself, if it does.

        A key that has expired is deleted, so that what is stored there next is new, and comes last.

        :raises QuotaExceeded: when there are no bytes left for it
        :raises TooManyKeys: when it is one key too many
        """
        more_bytes, more_keys, kept = nbytes + len(key.encode()), 1, None
        for old_bytes, expires, file in transaction.execute(schema.SIZE, (f"{owner.name}/{key}",)):
            if access.is_live_key(expires):
                more_bytes, more_keys, kept = more_bytes - old_bytes, 0, expires
                forget_files(transaction, self._buffers, [(file,)])
            else:
                self._delete_key(transaction, owner, key)
        if not self._fits(transaction, owner, key, more_bytes, more_keys, must=False):
            self._delete_values(transaction, schema.DELETE_EXPIRED, owner.name, access.now)
            self._fits(transaction, owner, key, more_bytes, more_keys, must=True)
        return kept

    def _fits(
        self, transaction: Transaction, owner: Owner, key: str, more_bytes: int, more_keys: int, must: bool
    ) -> bool:
        """Whether there is room for so much more; what shrinks is always let in."""
        for *_, keys, nbytes in transaction.execute(schema.SESSION, (owner.name,)):
            if more_keys and keys >= self._limits.max_keys:
                if must:
                    raise self._limits.too_many_keys(key, keys)
                return False
            if more_bytes > 0 and nbytes + more_bytes > self._limits.max_bytes:
                if must:
                    raise self._limits.quota_exceeded(key, more_bytes, nbytes)
                return False
        return True

    def _delete_key(self, transaction: Transaction, owner: Owner, key: str) -> list[Row]:
        rows = transaction.execute(schema.DELETE, (f"{owner.name}/{key}",))
        forget_files(transaction, self._buffers, [(file,) for _, file in rows])
        return rows

    def _delete_values(self, transaction: Transaction, sql: str, name: str, now: float = 0.0) -> None:
        args = {"owner": name, "now": now}
        forget_files(transaction, self._buffers, transaction.execute(sql, args))

    def expire(self, owner: Owner, key: str, key_expires: float | None, access: Access) -> bool:
        with self._database.transaction() as transaction:
            expiry = self._open(transaction, owner, access)
            if expiry is None:
                return False
            self._move_expiry(transaction, owner, expiry, access)
            rows = transaction.execute(schema.SIZE, (f"{owner.name}/{key}",))
            is_there = any(access.is_live_key(expires) for _, expires, _ in rows)
            if is_there:
                transaction.execute(schema.EXPIRE_KEY, (key_expires, f"{owner.name}/{key}"))
            return is_there

    def delete(self, owner: Owner, key: str, access: Access) -> bool:
        return self._freeing(lambda: self._delete(owner, key, access))

    def _delete(self, owner: Owner, key: str, access: Access) -> bool:
        with self._database.transaction() as transaction:
            expiry = self._open(transaction, owner, access)
            if expiry is None:
                return False
            self._move_expiry(transaction, owner, expiry, access)
            return any(access.is_live_key(expires) for expires, _ in self._delete_key(transaction, owner, key))

    def clear(self, owner: Owner, access: Access) -> None:
        self._freeing(lambda: self._clear(owner, access))

    def _clear(self, owner: Owner, access: Access) -> None:
        with self._database.transaction() as transaction:
            expiry = self._open(transaction, owner, access)
            if expiry is not None:
                self._move_expiry(transaction, owner, expiry, access)
                self._delete_values(transaction, schema.CLEAR, owner.name)

    # Sessions as a whole

    def renew(self, owner: Owner, session: bytes, access: Access, user: bytes | None = None) -> None:
        with self._database.transaction() as transaction:
            self._begin_use(transaction, owner, access)
            transaction.execute(schema.RENEW, (access.expires, session, access.now, user, owner.name))

    def end(self, owner: Owner, access: Access) -> float:
        row = self._database.select_one(schema.SESSION, (owner.name,))
        if row is not None and row[1] != owner.session:
            return float(row[2] or 0.0)  # A dead id that comes again and again waits for no lock.
        try:
            return self._end(owner, access)
        except StorageFull:
            # The values of a session that has ended are out of reach, so it is enough if maintenance deletes them.
            return self._freeing(lambda: self._end(owner, access, deletes=False))

    def _end(self, owner: Owner, access: Access, deletes: bool = True) -> float:
        with self._database.transaction() as transaction:
            for _, session, renewed, keys, nbytes in transaction.execute(schema.SESSION, (owner.name,)):
                if session != owner.session:
                    return float(renewed or 0.0)
                deletes &= keys <= FEW_KEYS and nbytes <= FEW_BYTES
            if deletes:
                self._delete_values(transaction, schema.CLEAR, owner.name)
            transaction.execute(schema.END, (owner.name, access.now))
            return access.now

    def _freeing(self, work: Callable[[], T]) -> T:
        """Do what frees space. It has the reserve when there is no other."""
        try:
            return work()
        except StorageFull:
            if self._reserve is None or self._database.is_in_transaction():
                raise
            with self._reserve.released():
                try:
                    return work()
                except StorageFull:
                    self._database.checkpoints.make()
                    return work()
