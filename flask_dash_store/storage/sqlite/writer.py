"""The writes of the SQLite storage. Each is one statement or, if it must be, one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import inf, nextafter
from typing import Any, TypeVar

from ...buffers import Stored
from ...errors import StorageFull, UserStoreError
from ...expiry import Access
from ...owner import Owner
from ..base import KeyExpiry, Limits
from . import schema
from .database import Transaction
from .maintenance import delete_some, remove_files_on_commit
from .reader import Reader, check_session
from .reserve import Reserve

T = TypeVar("T")

# If all values of an owner are few rows with few bytes, they are deleted at once. Otherwise they only count as deleted,
# and maintenance removes the rows, so that no other writer waits for that.
FEW_ROWS = 64
FEW_BYTES = 2**20

# How many rows this process remembers as written, to guess which statement will write a value.
MAX_WRITTEN = 4096


class Writer(Reader):
    """The methods of a storage that write."""

    _limits: Limits
    _reserve: Reserve | None
    _written: set[str]
    """Rows that this process has written, so that an UPDATE will probably overwrite them."""
    _has_deleted = False
    """Whether there are rows that count as deleted, which maintenance should remove."""

    def set(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        if not self._set_small(owner, key, value, access, key_expires):
            self._put_all(owner, [(key, value, key_expires)], access)

    def set_all(self, owner: Owner, values: Iterable[tuple[str, Stored]], access: Access) -> None:
        self._put_all(owner, [(key, value, None) for key, value in values], access)

    def _set_small(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry) -> bool:
        """Store a value without buffers by one statement. Returns whether that was possible, as it mostly is."""
        payload, buffers = value
        if buffers is not None or key_expires == "keep":
            return False
        args = self._overwriting(owner, key, payload, access)
        row, max_keys = args[1], self._limits.max_keys
        is_known = key_expires is None and row in self._written
        if is_known and self._database.change(schema.OVERWRITE, args):
            return True
        if not self._database.change(schema.SET, (*args, max_keys, key_expires, access.now)):
            return False
        if key_expires is None:
            if len(self._written) >= MAX_WRITTEN:
                self._written.clear()
            self._written.add(row)
        return True

    def _overwriting(self, owner: Owner, key: str, payload: bytes, access: Access) -> tuple[Any, ...]:
        """The arguments of the statements that store a small value."""
        name, session = owner
        now, expires, threshold = access
        earliest, latest = expires - threshold, expires + threshold
        if not earliest > now:  # It is NaN if nothing ever expires and the use does not count.
            earliest = nextafter(now, inf)
        most_bytes = self._limits.max_bytes - len(payload) - 4 * len(key)  # At most 4 bytes of UTF-8 per character.
        return payload, f"{name}/{key}", name, session, earliest, latest, most_bytes

    def replace(self, owner: Owner, key: str, former: bytes, value: Stored, access: Access) -> bool:
        payload, buffers = value
        if buffers is None:
            args = self._overwriting(owner, key, payload, access)
            if self._database.change(schema.REPLACE, (*args, former)):
                return True
        return super().replace(owner, key, former, value, access)

    def _put_all(self, owner: Owner, values: list[tuple[str, Stored, KeyExpiry]], access: Access) -> None:
        written: list[str] = []
        try:
            for _, (_, buffers), _ in values:  # Before the lock is acquired, so that no one waits for the disk.
                if buffers is not None:
                    self._buffers.write(buffers)
                    written.append(buffers.name)
            with self._database.transaction() as transaction:
                if written:
                    transaction.on_rollback(partial(self._buffers.remove, written))
                self._begin_use(transaction, owner, access)
                for each in values:
                    if not self._set_small(owner, each[0], each[1], access, each[2]):
                        self._put(transaction, owner, *each, access)
        except UserStoreError:
            self._buffers.remove(written)  # If no transaction has begun, on_rollback is not called.
            raise

    def _put(
        self, transaction: Transaction, owner: Owner, key: str, value: Stored, key_expires: KeyExpiry, access: Access
    ) -> None:
        payload, buffers = value
        file, file_bytes, boot = (buffers.name, buffers.nbytes, self._boot) if buffers else (None, 0, None)
        kept = self._make_room(transaction, owner, key, len(payload) + file_bytes, access)
        expires = kept if key_expires == "keep" else key_expires
        transaction.execute(schema.PUT, (f"{owner.name}/{key}", payload, expires, file, file_bytes, boot))

    def _open(self, transaction: Transaction, owner: Owner, access: Access) -> float | None:
        """The expiry of the owner. If it has expired, or is not known, delete its values, and return None.

        :raises SessionEnded: if the session has ended, or has another id
        """
        for expiry, session, renewed, *_ in transaction.execute(schema.SESSION, (owner.name,)):
            check_session(owner, session, renewed)
            if access.is_future(expiry):
                return expiry
            self._delete_all(transaction, owner)
            return None
        # Another program may have written values of an unknown owner.
        remove_files_on_commit(transaction, self._buffers, transaction.execute(schema.CLEAR, {"owner": owner.name}))
        return None

    def _begin_use(self, transaction: Transaction, owner: Owner, access: Access) -> None:
        """Move the owner's expiry if that is due, or create the owner."""
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
        """Check that a value fits in place of the one it replaces, and return the expiry of the existing key, if any.

        A key that has expired, or counts as deleted, is deleted, so that the value is inserted at the end of the order.

        :raises QuotaExceeded: if the value would exceed the limit of bytes
        :raises TooManyKeys: if the key would exceed the limit of keys
        """
        more_bytes, more_keys, kept = nbytes + len(key.encode()), 1, None
        for old_bytes, expires, file, is_deleted in transaction.execute(schema.SIZE, (f"{owner.name}/{key}",)):
            if access.is_live_key(expires) and not is_deleted:
                more_bytes, more_keys, kept = more_bytes - old_bytes, 0, expires
                remove_files_on_commit(transaction, self._buffers, [(file,)])
            else:
                rows = transaction.execute(schema.DELETE, (f"{owner.name}/{key}",))
                remove_files_on_commit(transaction, self._buffers, rows)
        for *_, keys, nbytes in transaction.execute(schema.SESSION, (owner.name,)):
            if not self._fits(more_bytes, more_keys, nbytes, keys):
                self._make_room_of_expired(transaction, owner, key, more_bytes, more_keys, access.now)
        return kept

    def _fits(self, more_bytes: int, more_keys: int, nbytes: int, keys: int) -> bool:
        """Whether an owner may have this many more bytes and keys. A smaller value always fits."""
        has_room = more_bytes <= 0 or nbytes + more_bytes <= self._limits.max_bytes
        return has_room and (more_keys == 0 or keys < self._limits.max_keys)

    def _make_room_of_expired(
        self, transaction: Transaction, owner: Owner, key: str, more_bytes: int, more_keys: int, now: float
    ) -> None:
        """Check the limits without counting expired keys, and delete some of these, but not many at once."""
        delete_some(transaction, self._buffers, schema.SIZES_EXPIRED, owner.name, now=now)
        for *_, nbytes, keys, _ in transaction.execute(schema.STAT, {"owner": owner.name, "now": now}):
            if more_keys and keys >= self._limits.max_keys:
                raise self._limits.too_many_keys(key, keys)
            if not self._fits(more_bytes, more_keys, nbytes, keys):
                raise self._limits.quota_exceeded(key, more_bytes, nbytes)

    def _delete_all(self, transaction: Transaction, owner: Owner, at_once: bool = True) -> None:
        """Delete all values of a known owner, or mark them as deleted.

        :param at_once: whether to delete the rows if they are few
        """
        few_rows = FEW_ROWS if at_once else 0
        rows = transaction.execute(schema.SIZES_KEPT, {"owner": owner.name, "limit": few_rows + 1})
        if len(rows) > few_rows or sum(nbytes or 0 for _, nbytes in rows) > FEW_BYTES:
            transaction.execute(schema.COUNT_AS_DELETED, {"owner": owner.name})
            transaction.on_commit(self._note_deleted)
            return
        for rowid, _ in rows:
            remove_files_on_commit(transaction, self._buffers, transaction.execute(schema.DELETE_ROW, (rowid,)))

    def _note_deleted(self) -> None:
        self._has_deleted = True

    def expire(self, owner: Owner, key: str, key_expires: float | None, access: Access) -> bool:
        with self._database.transaction() as transaction:
            expiry = self._open(transaction, owner, access)
            if expiry is None:
                return False
            self._move_expiry(transaction, owner, expiry, access)
            rows = transaction.execute(schema.SIZE, (f"{owner.name}/{key}",))
            exists = any(access.is_live_key(expires) and not is_deleted for _, expires, _, is_deleted in rows)
            if exists:
                transaction.execute(schema.EXPIRE_KEY, (key_expires, f"{owner.name}/{key}"))
            return exists

    def delete(self, owner: Owner, key: str, access: Access) -> bool:
        return self._freeing(lambda: self._delete(owner, key, access))

    def _delete(self, owner: Owner, key: str, access: Access) -> bool:
        with self._database.transaction() as transaction:
            expiry = self._open(transaction, owner, access)
            if expiry is None:
                return False
            self._move_expiry(transaction, owner, expiry, access)
            args = {"owner": owner.name, "key": f"{owner.name}/{key}"}
            rows = transaction.execute(schema.DELETE_KEPT, args)
            remove_files_on_commit(transaction, self._buffers, [row[:1] for row in rows])
            return any(access.is_live_key(expires) for _, expires in rows)

    def clear(self, owner: Owner, access: Access) -> None:
        self._freeing(lambda: self._clear(owner, access))

    def _clear(self, owner: Owner, access: Access) -> None:
        with self._database.transaction() as transaction:
            expiry = self._open(transaction, owner, access)
            if expiry is not None:
                self._move_expiry(transaction, owner, expiry, access)
                self._delete_all(transaction, owner)

    # Sessions as a whole

    def renew(self, owner: Owner, session: bytes, access: Access, user: bytes | None = None) -> None:
        with self._database.transaction() as transaction:
            self._begin_use(transaction, owner, access)
            transaction.execute(schema.RENEW, (access.expires, session, access.now, user, owner.name))

    def end(self, owner: Owner, access: Access) -> float:
        for _, session, renewed, *_ in self._database.select(schema.SESSION, (owner.name,)):
            if session != owner.session:
                return float(renewed or 0.0)  # A dead id that comes again and again does not wait for the lock.
        try:
            return self._end(owner, access)
        except StorageFull:
            return self._freeing(
                lambda: self._end(owner, access, at_once=False)
            )  # Deleting rows would first need space.

    def _end(self, owner: Owner, access: Access, at_once: bool = True) -> float:
        with self._database.transaction() as transaction:
            for _, session, renewed, *_ in transaction.execute(schema.SESSION, (owner.name,)):
                if session != owner.session:
                    return float(renewed or 0.0)
                self._delete_all(transaction, owner, at_once)
            transaction.execute(schema.END, (owner.name, access.now))
            return access.now

    def _freeing(self, work: Callable[[], T]) -> T:
        """Call a function that frees space. On a full disk, it may use the reserve."""
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
