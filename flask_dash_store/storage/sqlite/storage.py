"""The default storage: sqlitedict tables in one SQLite file in WAL mode, and large values in files beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from math import inf
from pathlib import Path
from typing import TypeVar

from ...buffers import Stored
from ...errors import SessionEnded, StorageBusy, StorageCorrupt, StorageError, StorageFull, UserStoreError
from ...expiry import Access
from ...owner import Owner
from ..base import (
    DEFAULT_LIMITS,
    DEFAULT_TIMEOUT,
    Dump,
    ExpiryLimit,
    KeyExpiry,
    Limits,
    Removed,
    SessionInfo,
    Stat,
    Storage,
    SupportsBackup,
    SupportsExport,
    Synchronous,
)
from . import schema
from .backup import Backup
from .buffer_files import BufferFiles, BuffersInMemory, BufferStore, boot_id, buffers_beside
from .connection import Errors, connect, use_wal
from .database import Database
from .export import Export
from .file_identity import FileIdentity
from .files import TemporaryDirectory, check_private_directory, make_private, prepare_private_file
from .filesystem import check_filesystem
from .maintenance import Maintenance, forget_files
from .pool import MemoryPool, Pool
from .reserve import Reserve
from .tables import make_tables
from .transaction import Row, Transaction

logger = logging.getLogger("flask_dash_store")

T = TypeVar("T")

# What ends with a session is deleted at once when it is little, and else by maintenance: no other visitor waits.
FEW_KEYS = 64
FEW_BYTES = 2**20


class _Replaced(Exception):
    """Another request has replaced the value whose buffers were to be read."""


class SqliteStorage(Storage, SupportsExport, SupportsBackup):
    """Values in a SQLite file, in memory, or in a file that goes away with the process.

    :param path: the file, ``":memory:"``, or None for a temporary file
    :param limits: how much one owner may store
    :param timeout: seconds that a call waits for other writers
    :param synchronous: ``"FULL"`` to keep acknowledged writes through a power loss; ``"NORMAL"`` may lose the last
        ones, and is always consistent (https://www.sqlite.org/pragma.html#pragma_synchronous)
    :raises StorageError: when the file cannot be opened, or lies where SQLite's WAL mode is not safe
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        limits: Limits = DEFAULT_LIMITS,
        timeout: float = DEFAULT_TIMEOUT,
        synchronous: Synchronous = "NORMAL",
    ) -> None:
        self._limits = limits
        self._temporary = TemporaryDirectory() if path is None else None
        self._boot = boot_id()
        self._reserve: Reserve | None = None
        if path == ":memory:":
            self._open_memory(timeout, synchronous)
        else:
            file = self._temporary.path / "values.sqlite" if self._temporary else Path(str(path))
            self._open_file(file, timeout, synchronous)
        self._freeing(self._prepare)
        self._maintenance = Maintenance(self._database, self._buffers)
        self._backup = Backup(self._database, self._buffers, self.filename)
        self._export = Export(self._database, self._buffers, self._boot)
        self._pool.close_idle()  # A server that forks in C gives no warning.

    def _open_memory(self, timeout: float, synchronous: Synchronous) -> None:
        self.filename = ":memory:"
        self._pool: Pool = MemoryPool(partial(connect, ":memory:", synchronous), "The storage in memory", timeout)
        self._database = Database(self, self._pool)
        self._buffers: BufferStore = BuffersInMemory()

    def _open_file(self, file: Path, timeout: float, synchronous: Synchronous) -> None:
        self.filename = str(prepare_private_file(file))
        check_filesystem(self.filename)
        check_private_directory(buffers_beside(self.filename))
        connector = partial(connect, self.filename, synchronous)
        self._pool = Pool(connector, f"The storage {self.filename}", timeout, FileIdentity(self.filename))
        self._database = Database(self, self._pool)
        self._buffers = BufferFiles(buffers_beside(self.filename), sync=synchronous == "FULL")
        if not self._temporary:
            self._reserve = Reserve(f"{self.filename}-reserve")

    def _prepare(self) -> None:
        connection = self._pool.acquire()
        try:
            use_wal(connection, self.filename)
        except Errors as error:
            raise self._pool.error(error, connection) from error
        finally:
            self._pool.release(connection)
        if self._pool.file is not None:
            self._pool.file.note_wal()  # A new file had none when the first connection to it was opened.
            make_private(self.filename)
        with self._database.transaction() as transaction:
            make_tables(transaction, self.filename)
        if self._reserve is not None:
            self._reserve.keep()

    # Reading: one SELECT, which never waits for a writer

    def get(self, owner: Owner, key: str, access: Access) -> Stored | None:
        name, session = owner
        row = self._database.select_one(schema.GET, (name, session, f"{name}/{key}"))
        if row is None or row[0] is None:
            self._check(owner, access)
            return None
        expiry, payload, key_expires, file, boot = row
        if not access.is_future(expiry):
            return None
        if abs(expiry - access.expires) > access.touch_threshold:
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

    def keys(self, owner: Owner, access: Access) -> list[str]:
        rows = self._own_rows(schema.KEYS, owner, access)
        start = len(owner.name) + 1  # SQLite's own functions end a text at a NUL, which a key may hold.
        return [key[start:] for key, file, boot in rows if self._is_whole(key[start:], file, boot)]

    def items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        try:
            return self._items(owner, access)
        except _Replaced:
            # Buffers are read after the rows. So that all are of one point in time, no one may write meanwhile.
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

    def _own_rows(self, sql: str, owner: Owner, access: Access, key: str = "") -> list[Row]:
        """What a query that begins with the owner's expiry says of an owner that has not expired."""
        args = {"owner": owner.name, "session": owner.session, "now": access.now, "key": key}
        rows = self._database.select(sql, args)
        if not rows or rows[0][0] is None:
            self._check(owner, access)
            return []
        return [row[1:] for row in rows] if self._use(owner, rows[0][0], access) else []

    def _check(self, owner: Owner, access: Access) -> None:
        """What a read that found nothing of the owner's has to do all the same.

        :raises SessionEnded: when another session id is the owner's, or none
        """
        row = self._database.select_one(schema.SESSION, (owner.name,))
        if row is not None:
            _check_session(owner, row[1], row[2])
            self._use(owner, row[0], access)

    def _use(self, owner: Owner, expiry: object, access: Access) -> bool:
        """Whether an owner of this expiry has not expired. If it has not, it is touched when that is due."""
        if not access.is_future(expiry):
            return False
        if access.is_touch_due(expiry):
            self._touch(owner, access)
        return True

    def _touch(self, owner: Owner, access: Access) -> None:
        args = (access.expires, owner.name, owner.session, access.now, access.touch_threshold)
        self._best_effort(schema.TOUCH, args)

    def _best_effort(self, sql: str, args: tuple[object, ...]) -> None:
        """Write something that a read has found due. It stays due, so a later read does what this one cannot."""
        try:
            with self._database.transaction(wait=False) as transaction:
                transaction.execute(sql, args)
        except StorageBusy:
            pass  # Another one writes at present, and a read never waits for a writer.
        except StorageError as error:
            logger.warning("A read could not write down that a value was used: %s", error)

    def _with_buffers(self, key: str, payload: bytes, file: str, boot: str | None) -> Stored | None:
        is_same_boot = boot == self._boot
        buffers = self._buffers.read(file, may_be_torn=not is_same_boot)
        if buffers is not None:
            if not is_same_boot:
                self._best_effort(schema.SURVIVED_BOOT, (self._boot, file))
            return payload, buffers
        if self._database.select(schema.IS_NAMED, (file,)):
            if is_same_boot:
                raise StorageCorrupt(
                    f"The file {file} of the value stored under {key!r} is missing. Delete the key.", key=key
                )
            self._best_effort(schema.DELETE_TORN, (file,))
            return None  # A power loss has taken it, as it may take what was written last.
        raise _Replaced

    def _is_whole(self, key: str, file: str | None, boot: str | None) -> bool:
        """Whether the buffers of a value, if it has any, have come through power losses."""
        if file is None or boot == self._boot:
            return True
        try:
            return self._with_buffers(key, b"", file, boot) is not None
        except _Replaced:
            return True

    def stat(self, owner: Owner, access: Access) -> Stat:
        row = self._database.select_one(schema.STAT, {"owner": owner.name, "now": access.now})
        if row is None:
            return Stat()
        expiry, session, renewed, nbytes, keys = row
        _check_session(owner, session, renewed)
        return Stat(expiry, nbytes, keys) if access.is_future(expiry) and keys > 0 else Stat()

    # Writing

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
            _check_session(owner, session, renewed)
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
            self._open(transaction, owner, access)
            transaction.execute(schema.RENEW, (owner.name, access.expires, session, access.now, user))

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

    def sessions(self, user: bytes, access: Access) -> list[SessionInfo]:
        rows = self._database.select(schema.SESSIONS, (user, access.now))
        return [SessionInfo(Owner(name, session), *rest) for name, session, *rest in rows]

    def owners(self, prefix: str, access: Access) -> list[str]:
        args = {"prefix": prefix, "end": _end_of(prefix), "now": access.now}
        return [owner for (owner,) in self._database.select(schema.OWNERS, args)]

    # Looking after it

    @property
    def needs_maintenance(self) -> bool:
        return self._database.is_checkpoint_due

    def maintain(
        self, now: float, ended_before: float, expiry_limit: ExpiryLimit | None = None, wait: bool = False
    ) -> Removed:
        self._database.checkpoint_if_due()
        if expiry_limit is not None:
            prefix, latest = expiry_limit
            args = {"prefix": prefix, "end": _end_of(prefix), "latest": latest}
            self._database.change(schema.LIMIT_EXPIRY, args)
        removed = self._freeing(lambda: self._maintenance.run(now, max(ended_before, 0.0), wait))
        if self._reserve is not None and not removed.has_more:
            self._reserve.keep()
        return removed

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
                    self._database.checkpoint()
                    return work()

    def transaction(self, owner: Owner) -> AbstractContextManager[object]:  # noqa: ARG002
        # SQLite locks the database, so this keeps out the writers of all owners, not of this one alone.
        return self._database.transaction()

    def close(self) -> None:
        self._database.close()
        if self._temporary:
            self._temporary.remove()

    # Copying

    def all_owners(self) -> Iterator[str]:
        return self._export.all_owners()

    def dump(self, name: str) -> Dump | None:
        return self._export.dump(name)

    def load(self, name: str, dump: Dump) -> None:
        self._export.load(name, dump)

    def problems(self) -> Iterator[str]:
        return self._export.problems()

    def back_up(self, target: Path) -> list[str]:
        return self._backup.write(target)

    def restore(self, source: Path) -> None:
        self._backup.restore(source)


def _check_session(owner: Owner, session: object, renewed: object) -> None:
    """
    :raises SessionEnded: when another session id is the owner's, or none
    """
    if session != owner.session:
        raise SessionEnded(float(renewed) if isinstance(renewed, (int, float)) else 0.0)


def _end_of(prefix: str) -> str:
    """The first text after all that begin with the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"
