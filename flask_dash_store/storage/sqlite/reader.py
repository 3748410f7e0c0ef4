"""The reads of the SQLite storage. Each is one SELECT, which never waits for a writer."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection

from ...buffers import Stored
from ...errors import SessionEnded, StorageBusy, StorageCorrupt, StorageError
from ...expiry import Access
from ...owner import Owner
from ..base import ENDED, VERSION_BYTES, SessionInfo, Stat, Storage, ValueInfo
from . import schema
from .buffer_files import BufferFiles
from .connection import Row
from .database import Database

logger = logging.getLogger("flask_dash_store")


# How many files this process remembers as verified.
MAX_CHECKED = 4096


class _Replaced(Exception):
    """Another request has replaced the value before its buffers were read."""


class Reader(Storage):
    """The methods of a storage that read. They move an owner's expiry when that is due."""

    _database: Database
    _buffers: BufferFiles
    _boot: str
    _checked: set[str]
    """Files from before the last boot, or an unknown boot, that this process has verified."""

    def get(self, owner: Owner, key: str, access: Access) -> Stored | None:
        name, session = owner
        rows = self._database.select(schema.GET, (name, session, f"{name}/{key}"))
        if not rows or rows[0][0] is None:
            self._check(owner, access)
            return None
        expiry, payload, key_expires, file, boot = rows[0]
        now, expires, threshold = access
        # Access.is_future() and is_touch_due(), inlined.
        if not (isinstance(expiry, (float, int)) and expiry > now):
            return None
        if abs(expiry - expires) > threshold:
            self._touch(owner, access)
        if key_expires is not None and not access.is_future(key_expires):
            return None
        if file is None:
            return payload, None
        try:
            return self._with_buffers(key, payload, file, boot)
        except _Replaced:
            return self.get(owner, key, access)

    def has(self, owner: Owner, key: str, access: Access) -> bool:
        rows = self._own_rows(schema.HAS, owner, access, key=f"{owner.name}/{key}")
        return any(access.is_live_key(expires) and self._is_whole(key, file, boot) for expires, file, boot in rows)

    def keys(self, owner: Owner, access: Access, limit: int | None = None, newest_first: bool = False) -> list[str]:
        sql = schema.LAST_KEYS if newest_first else schema.KEYS
        rows = self._own_rows(sql, owner, access, limit=-1 if limit is None else limit)
        start = (
            len(owner.name) + 1
        )  # Not in SQL, because SQLite's functions end a text at a NUL, which a key may contain.
        keys = [key[start:] for key, file, boot in rows if self._is_whole(key[start:], file, boot)]
        if limit == len(rows) > len(keys):  # A power loss has destroyed some of them.
            return self.keys(owner, access, None, newest_first)[:limit]
        return keys

    def items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        try:
            return self._items(owner, access)
        except _Replaced:
            # Buffers are read after the rows. In a transaction, no one can write in between.
            with self._database.transaction():
                return self._items(owner, access)

    def _items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        found: list[tuple[str, Stored]] = []
        for name, payload, file, boot in self._own_rows(schema.ITEMS, owner, access):
            key = name[len(owner.name) + 1 :]
            value = (payload, None) if file is None else self._with_buffers(key, payload, file, boot)
            if value is not None:
                found.append((key, value))
        return found

    def _own_rows(self, sql: str, owner: Owner, access: Access, **more: str | int) -> list[Row]:
        """The rows of a query whose first column is the owner's expiry, without it; none if the owner has expired."""
        args = {"owner": owner.name, "session": owner.session, "now": access.now, **more}
        rows = self._database.select(sql, args)
        if not rows or rows[0][0] is None:
            self._check(owner, access)
            return []
        return [row[1:] for row in rows] if self._use(owner, rows[0][0], access) else []

    def _check(self, owner: Owner, access: Access) -> None:
        """Complete a read that found no rows: check the session, and touch the owner if that is due.

        :raises SessionEnded: if the session has ended, or has another id
        """
        for expiry, session, renewed, *_ in self._database.select(schema.SESSION, (owner.name,)):
            check_session(owner, session, renewed)
            self._use(owner, expiry, access)

    def _use(self, owner: Owner, expiry: object, access: Access) -> bool:
        """Whether an owner with this expiry has not expired. Touches it if that is due."""
        if not access.is_future(expiry):
            return False
        if access.is_touch_due(expiry):
            self._touch(owner, access)
        return True

    def _touch(self, owner: Owner, access: Access) -> None:
        args = (access.expires, owner.name, owner.session, access.now, access.touch_threshold)
        self._best_effort(schema.TOUCH, args)

    def _best_effort(self, sql: str, args: tuple[object, ...]) -> None:
        """Write something that a read has found due. If it fails, a later read tries again."""
        try:
            with self._database.transaction(wait=False) as transaction:
                transaction.execute(sql, args)
        except StorageBusy:
            pass  # Another thread or process is writing, and a read never waits for a writer.
        except StorageError as error:
            logger.warning("A read could not move the expiry of a session or user: %s", error)

    def _with_buffers(self, key: str, payload: bytes, file: str, boot: str | None) -> Stored | None:
        is_same_boot = boot == self._boot or file in self._checked
        buffers = self._buffers.read(file, may_be_torn=not is_same_boot)
        if buffers is not None:
            if not is_same_boot:
                self._note_whole(file)
            return payload, buffers
        if self._database.select(schema.IS_NAMED, (file,)):
            if is_same_boot:
                raise StorageCorrupt(
                    f"The file {file} of the value stored under {key!r} is missing. Delete the key.", key=key
                )
            self._best_effort(schema.DELETE_TORN, (file,))
            return None  # A power loss has destroyed it, as it may destroy the last writes.
        raise _Replaced

    def _note_whole(self, file: str) -> None:
        """Remember that a file is verified: in its row, for all processes, and here, if the boot has no id."""
        if len(self._checked) >= MAX_CHECKED:
            self._checked.clear()
        self._checked.add(file)
        self._best_effort(schema.SURVIVED_BOOT, (self._boot, file))

    def _is_whole(self, key: str, file: str | None, boot: str | None) -> bool:
        """Whether the buffers of a value, if it has any, have survived power losses."""
        if file is None or boot == self._boot or file in self._checked:
            return True
        try:
            return self._with_buffers(key, b"", file, boot) is not None
        except _Replaced:
            return True

    def stat(self, owner: Owner, access: Access) -> Stat:
        args = {"owner": owner.name, "now": access.now}
        for expiry, session, renewed, nbytes, keys, user in self._database.select(schema.STAT, args):
            check_session(owner, session, renewed)
            if access.is_future(expiry):
                return Stat(expiry if keys > 0 else None, nbytes, keys, user)
        return Stat()

    def current(self, owner: Owner, access: Access) -> Owner:  # noqa: ARG002  # Known ids do not expire.
        for _, session, renewed, *_ in self._database.select(schema.SESSION, (owner.name,)):
            if session == ENDED:
                check_session(owner, session, renewed)
            return owner._replace(session=session)
        return owner

    def describe(self, owner: Owner, access: Access) -> list[ValueInfo]:
        start = len(owner.name) + 1
        return [
            ValueInfo(key[start:], nbytes, expires, file is not None)
            for key, nbytes, expires, file, boot in self._own_rows(
                schema.DESCRIBE, owner, access._replace(touch_threshold=math.inf)
            )
            if self._is_whole(key[start:], file, boot)
        ]

    def versions(self, owner: Owner, keys: Collection[str] | None, access: Access) -> dict[str, bytes]:
        unused, start = access._replace(touch_threshold=math.inf), len(owner.name) + 1
        if keys is None:
            rows = self._own_rows(schema.VERSIONS, owner, unused, length=VERSION_BYTES)
        else:
            names = json.dumps([f"{owner.name}/{key}" for key in keys])
            rows = self._own_rows(schema.VERSIONS_OF_KEYS, owner, unused, length=VERSION_BYTES, keys=names)
        return {
            key[start:]: bytes(version) for key, version, file, boot in rows if self._is_whole(key[start:], file, boot)
        }

    def sessions(self, user: bytes, access: Access) -> list[SessionInfo]:
        rows = self._database.select(schema.SESSIONS, {"user": user, "now": access.now})
        return [SessionInfo(Owner(name, session), *rest) for name, session, *rest in rows]

    def owners(self, prefix: str, access: Access) -> list[str]:
        args = {"prefix": prefix, "end": end_of(prefix), "now": access.now}
        return [owner for (owner,) in self._database.select(schema.OWNERS, args)]


def check_session(owner: Owner, session: object, renewed: object) -> None:
    """Check that the session id of an owner still opens its values.

    :param session: the stored SHA-256
    :param renewed: when the session was renewed or ended, if it was
    :raises SessionEnded: if the session has ended, or has another id
    """
    if session != owner.session:
        raise SessionEnded(float(renewed) if isinstance(renewed, (int, float)) else 0.0)


def end_of(prefix: str) -> str:
    """The first text that sorts after all texts with this prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"
