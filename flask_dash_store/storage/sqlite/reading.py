"""The reading half of the SQLite storage: one SELECT, which never waits for a writer."""

from __future__ import annotations

import logging

from ...buffers import Stored
from ...errors import StorageBusy, StorageCorrupt, StorageError
from ...expiry import Access
from ..base import Storage
from ..expiry import is_in_future, is_live_key
from . import schema
from .buffers import BufferStore
from .database import Database
from .transaction import Row

logger = logging.getLogger("flask_dash_store")


class _Replaced(Exception):
    """Another request has replaced the value whose body was to be read."""


class Reading(Storage):
    """What a storage reads, and the use of it that reading writes down."""

    _database: Database
    _buffers: BufferStore
    _boot: str

    def get(self, owner: str, key: str, access: Access) -> Stored | None:
        row = self._database.select_one(schema.GET, (owner, f"{owner}/{key}"))
        if row is None:
            self._use(owner, access)
            return None
        expiry, payload, key_expires, file, boot = row
        if not self._is_alive(owner, expiry, access) or not is_live_key(key_expires, access):
            return None
        if file is None:
            return payload, None
        try:
            return self._with_body(key, payload, file, boot)
        except _Replaced:
            return self.get(owner, key, access)

    def _with_body(self, key: str, payload: bytes, file: str, boot: str | None) -> Stored | None:
        is_same_boot = boot == self._boot
        body = self._buffers.read(file, may_be_torn=not is_same_boot)
        if body is not None:
            if not is_same_boot:
                self._best_effort(schema.SURVIVED_BOOT, (self._boot, file))
            return payload, body
        if self._database.select(schema.IS_NAMED, (file,)):
            if is_same_boot:
                raise StorageCorrupt(f"The file {file} of the value stored under {key!r} is missing. Delete the key.")
            self._best_effort(schema.DELETE_TORN, (file,))
            return None  # A power loss has taken it, as it may take what was written last.
        raise _Replaced

    def has(self, owner: str, key: str, access: Access) -> bool:
        row = self._database.select_one(schema.HAS, (owner, f"{owner}/{key}"))
        if row is None:
            self._use(owner, access)
            return False
        expiry, key_expires, file, boot = row
        is_live = self._is_alive(owner, expiry, access) and is_live_key(key_expires, access)
        return is_live and self._is_whole(key, file, boot)

    def _is_whole(self, key: str, file: str | None, boot: str | None) -> bool:
        """Whether the body of a value, if it has one, has come through power losses."""
        if file is None or boot == self._boot:
            return True
        try:
            return self._with_body(key, b"", file, boot) is not None
        except _Replaced:
            return True

    def _use(self, owner: str, access: Access) -> None:
        """What a read that found nothing of the owner's has to do all the same."""
        row = self._database.select_one(schema.SESSION, (owner,))
        if row is not None:
            self._is_alive(owner, row[0], access)

    def keys(self, owner: str, access: Access) -> list[str]:
        rows = self._own_values(schema.KEYS, owner, access)
        return [key for key, file, boot in rows if self._is_whole(key, file, boot)]

    def items(self, owner: str, access: Access) -> list[tuple[str, Stored]]:
        try:
            return self._items(owner, access)
        except _Replaced:
            # Bodies are read after the rows. So that all are of one point in time, nobody may write meanwhile.
            with self._database.transaction():
                return self._items(owner, access)

    def _items(self, owner: str, access: Access) -> list[tuple[str, Stored]]:
        found: list[tuple[str, Stored]] = []
        for key, payload, file, boot in self._own_values(schema.ITEMS, owner, access):
            value = (payload, None) if file is None else self._with_body(key, payload, file, boot)
            if value is not None:
                found.append((key, value))
        return found

    def _own_values(self, sql: str, owner: str, access: Access) -> list[Row]:
        """The rows of an owner's values, each with the key as the owner knows it."""
        rows = self._own_rows(sql, owner, access)
        # SQLite's own functions end a text at a NUL, which a key may hold.
        return [(place[len(owner) + 1 :], *rest) for _, place, *rest in rows if place is not None]

    def count(self, owner: str, access: Access) -> int:
        return len(self.keys(owner, access))

    def _own_rows(self, sql: str, owner: str, access: Access) -> list[Row]:
        rows = self._database.select(sql, {"owner": owner, "now": access.now})
        return rows if rows and self._is_alive(owner, rows[0][0], access) else []

    def _is_alive(self, owner: str, expiry: object, access: Access) -> bool:
        if not is_in_future(expiry, access):
            return False
        if access.is_touch_due(expiry):
            self._touch(owner, access)
        return True

    def _touch(self, owner: str, access: Access) -> None:
        self._best_effort(schema.TOUCH, (access.expires, owner, access.now, access.expires, access.touch_threshold))

    def _best_effort(self, sql: str, args: tuple[object, ...]) -> None:
        """Write something that a read has found due. It stays due, so a later read does what this one cannot."""
        try:
            with self._database.transaction(wait=False) as transaction:
                transaction.execute(sql, args)
        except StorageBusy:
            pass  # Somebody writes at this access, and a read waits for nobody.
        except StorageError as error:
            logger.warning("A read could not write down that a value was used: %s", error)

    def expiry(self, owner: str, access: Access) -> float | None:
        row = self._database.select_one(schema.EXPIRY, {"owner": owner, "now": access.now})
        return row[0] if row and is_in_future(row[0], access) and row[1] else None

    def nbytes(self, owner: str, access: Access) -> int:
        row = self._database.select_one(schema.NBYTES, {"owner": owner, "now": access.now})
        return row[1] if row and is_in_future(row[0], access) else 0

    def owners(self, prefix: str, access: Access) -> list[str]:
        span = {"prefix": prefix, "end": end_of(prefix)}
        rows = self._database.select(schema.OWNERS, span | {"now": access.now})
        return [owner for (owner,) in rows]


def end_of(prefix: str) -> str:
    """The first text after all that begin with the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"
