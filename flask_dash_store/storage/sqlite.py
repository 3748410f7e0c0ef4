"""The default storage: sqlitedict tables in one SQLite file in WAL mode, and large values in files beside it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeGuard

import apsw

from ..body import Stored
from ..errors import QuotaExceeded, SessionEnded, StorageBusy, StorageCorrupt, StorageError
from ..lifetime import Moment
from . import schema
from .base import KeyExpiry, Reseal, Storage
from .buffers import BufferFiles, Buffers, BuffersInMemory, boot_id
from .database import Database
from .files import TemporaryDirectory, prepare_private_file
from .pool import WAL_PAGES, MemoryPool, Pool
from .tables import Table
from .transaction import Row, Transaction

logger = logging.getLogger("flask_dash_store")

Synchronous = Literal["NORMAL", "FULL"]

DEFAULT_MAX_BYTES = 2**30
DEFAULT_TIMEOUT = 5.0
# A transaction that purges takes no longer than another one, so that no request waits for it noticeably.
PURGED_TOGETHER = 4
VACUUM_PAGES = 8
# A large value's file that no row names was left by a crash, unless its writer has still to commit the row.
ORPHAN_AGE = 60 * 60.0


class _Replaced(Exception):
    """Another request has replaced the value whose body was to be read."""


class _Session(NamedTuple):
    expiry: float | None  # None: the owner has no values, so a first one begins its time anew
    nbytes: int


class SqliteStorage(Storage):
    """Values in a SQLite file, in memory, or in a file that goes away with the process.

    :param path: the file, ``":memory:"``, or None for a temporary file
    :param max_bytes: how many bytes the keys and payloads of one owner may take
    :param timeout: seconds that a call waits for other writers
    :param synchronous: ``"FULL"`` to keep acknowledged writes through a power loss; ``"NORMAL"`` may lose the
        last ones, and is always consistent (https://www.sqlite.org/pragma.html#pragma_synchronous)
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float = DEFAULT_TIMEOUT,
        synchronous: Synchronous = "NORMAL",
    ) -> None:
        self._max_bytes = max_bytes
        self._synchronous = synchronous
        self._timeout = timeout
        self._temporary = TemporaryDirectory() if path is None else None
        self._boot = boot_id()
        self._orphans_purged_at = 0.0
        self._buffers: Buffers
        if path == ":memory:":
            self.filename = ":memory:"
            self._database = Database(MemoryPool(self._connect, "in memory", timeout))
            self._buffers = BuffersInMemory()
        else:
            file = self._temporary.path / "values.sqlite" if self._temporary else Path(str(path))
            self.filename = str(prepare_private_file(file))
            self._database = Database(Pool(self._connect, self.filename, timeout))
            self._buffers = BufferFiles(Path(f"{self.filename}.buffers"), sync=synchronous == "FULL")
        self._prepare()

    def _connect(self) -> apsw.Connection:
        # Without SQLITE_OPEN_CREATE a file that has gone is an error, not an empty database in its place.
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
        connection = apsw.Connection(self.filename, flags=flags)
        connection.set_busy_timeout(int(self._timeout * 1000))
        for pragma in (
            f"synchronous = {self._synchronous}",
            "secure_delete = ON",
            "trusted_schema = OFF",
            f"journal_size_limit = {WAL_PAGES * 4096}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def _prepare(self) -> None:
        self._use_wal()
        with self._database.transaction() as transaction:
            self.values = Table(self._database, self.filename, "values", schema.VALUES_COLUMNS)
            self.sessions = Table(self._database, self.filename, "sessions", schema.SESSIONS_COLUMNS)
            for index in schema.INDEXES:
                transaction.execute(index)

    def _use_wal(self) -> None:
        # Several processes may start at once, and SQLite's busy handler is not asked while the mode changes.
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._database.select("PRAGMA auto_vacuum = INCREMENTAL")
                self._database.select("PRAGMA journal_mode = WAL")
                return
            except StorageBusy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    # Reading

    def get(self, owner: str, key: str, moment: Moment) -> Stored | None:
        row = self._database.select_one(schema.GET, (owner, f"{owner}/{key}"))
        if row is None:
            self._use(owner, moment)
            return None
        expiry, payload, key_expires, file, boot = row
        if not self._is_alive(owner, expiry, moment) or not _is_live_key(key_expires, moment):
            return None
        if file is None:
            return payload, None
        try:
            return self._with_body(owner, key, payload, file, boot)
        except _Replaced:
            return self.get(owner, key, moment)

    def _with_body(self, owner: str, key: str, payload: bytes, file: str, boot: str) -> Stored | None:
        is_same_boot = boot == self._boot
        body = self._buffers.read(file, may_be_torn=not is_same_boot)
        if body is not None:
            if not is_same_boot:
                self._best_effort(schema.SURVIVED_BOOT, (self._boot, file))
            return payload, body
        row = self._database.select_one(schema.GET, (owner, f"{owner}/{key}"))
        if row is not None and row[3] == file:
            if is_same_boot:
                raise StorageCorrupt(f"The file {file} of the value stored under {key!r} is missing. Delete the key.")
            return None  # A power loss has taken it, as it may take what was written last.
        raise _Replaced

    def has(self, owner: str, key: str, moment: Moment) -> bool:
        row = self._database.select_one(schema.HAS, (owner, f"{owner}/{key}"))
        if row is None:
            self._use(owner, moment)
            return False
        expiry, key_expires = row
        return self._is_alive(owner, expiry, moment) and _is_live_key(key_expires, moment)

    def _use(self, owner: str, moment: Moment) -> None:
        """What a read that found nothing of the owner's has to do all the same."""
        row = self._database.select_one(schema.SESSION, (owner,))
        if row is not None:
            self._is_alive(owner, row[0], moment)

    def keys(self, owner: str, moment: Moment) -> list[str]:
        return [key for key, *_ in self._own_values(schema.KEYS, owner, moment)]

    def items(self, owner: str, moment: Moment) -> list[tuple[str, Stored]]:
        try:
            return self._items(owner, moment)
        except _Replaced:
            # Bodies are read after the rows. So that all are of one point in time, nobody may write meanwhile.
            with self._database.transaction():
                return self._items(owner, moment)

    def _items(self, owner: str, moment: Moment) -> list[tuple[str, Stored]]:
        found: list[tuple[str, Stored]] = []
        for key, payload, file, boot in self._own_values(schema.ITEMS, owner, moment):
            value = (payload, None) if file is None else self._with_body(owner, key, payload, file, boot)
            if value is not None:
                found.append((key, value))
        return found

    def _own_values(self, sql: str, owner: str, moment: Moment) -> list[Row]:
        """The rows of an owner's values, each with the key as the owner knows it."""
        rows = self._own_rows(sql, owner, moment)
        # SQLite's own functions end a text at a NUL, which a key may hold.
        return [(place[len(owner) + 1 :], *rest) for _, place, *rest in rows if place is not None]

    def count(self, owner: str, moment: Moment) -> int:
        rows = self._own_rows(schema.COUNT, owner, moment)
        return rows[0][1] if rows else 0

    def _own_rows(self, sql: str, owner: str, moment: Moment) -> list[Row]:
        rows = self._database.select(sql, {"owner": owner, "now": moment.now})
        return rows if rows and self._is_alive(owner, rows[0][0], moment) else []

    def _is_alive(self, owner: str, expiry: object, moment: Moment) -> bool:
        if not _is_in_future(expiry, moment):
            return False
        if moment.is_touch_due(expiry):
            self._touch(owner, moment)
        return True

    def _touch(self, owner: str, moment: Moment) -> None:
        self._best_effort(schema.TOUCH, (moment.expires, owner, moment.now))

    def _best_effort(self, sql: str, args: tuple[object, ...]) -> None:
        """Write something that a read has found due. It stays due, so a later read does what this one cannot."""
        try:
            with self._database.transaction(wait=False) as transaction:
                transaction.execute(sql, args)
        except StorageBusy:
            pass  # Somebody writes at this moment, and a read waits for nobody.
        except StorageError as error:
            logger.warning("A session's expiry could not be moved: %s", error)

    def expiry(self, owner: str, moment: Moment) -> float | None:
        for expiry, nbytes in self._database.select(schema.NBYTES, {"owner": owner, "now": moment.now}):
            if _is_in_future(expiry, moment) and nbytes:
                return expiry
        return None

    def nbytes(self, owner: str, moment: Moment) -> int:
        for expiry, nbytes in self._database.select(schema.NBYTES, {"owner": owner, "now": moment.now}):
            if _is_in_future(expiry, moment):
                return nbytes or 0
        return 0

    def owners(self, prefix: str, moment: Moment) -> list[str]:
        span = {"prefix": prefix, "end": _end_of(prefix)}
        rows = self._database.select(schema.OWNERS, span | {"now": moment.now})
        return [owner for (owner,) in rows]

    # Writing

    def set(self, owner: str, key: str, value: Stored, moment: Moment, key_expires: KeyExpiry = None) -> None:
        payload, body = value
        place = f"{owner}/{key}"
        if body is not None or key_expires is not None or not self._overwrite(owner, place, payload, moment):
            self._put(owner, key, value, moment, key_expires)

    def _overwrite(self, owner: str, place: str, payload: bytes, moment: Moment) -> bool:
        now, expires, grain = moment
        blocks = -(-len(payload) // schema.BLOCK)
        args = (payload, place, blocks, owner, now, expires - grain, expires + grain)
        return self._database.change(schema.OVERWRITE, args) == 1

    def _put(self, owner: str, key: str, value: Stored, moment: Moment, key_expires: KeyExpiry) -> None:
        payload, body = value
        place = f"{owner}/{key}"
        file, file_bytes = (body.name, body.nbytes) if body else (None, 0)
        if body is not None:
            self._buffers.write(body)
        with self._removing_unless_committed(file), self._writing(owner, moment) as (transaction, session):
            session = self._drop_if_expired(transaction, key, place, session, moment)
            old = transaction.execute(schema.SIZE, (place,))
            if key_expires == "keep":
                key_expires = old[0][1] if old else None
            growth = schema.charge(len(payload), file_bytes) - (old[0][0] if old else -len(key.encode()))
            nbytes = self._charge(transaction, owner, key, session.nbytes, growth, moment)
            transaction.execute(
                schema.PUT, (place, payload, key_expires, file, file_bytes, self._boot if file else None)
            )
            self._record_use(transaction, owner, session, nbytes, moment)
            self._forget_files(transaction, (row[2:] for row in old))
            if file is not None:
                transaction.then(if_undone=partial(self._buffers.remove, [file]))

    @contextmanager
    def _removing_unless_committed(self, file: str | None) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if file is not None:
                self._buffers.remove([file])
            raise

    def _drop_if_expired(
        self, transaction: Transaction, key: str, place: str, session: _Session, moment: Moment
    ) -> _Session:
        """Let a key that has expired be new again: it comes last, and nothing of the old one is kept or counted."""
        for size, expires, file in transaction.execute(schema.SIZE, (place,)):
            if not _is_live_key(expires, moment):
                transaction.execute(schema.DELETE, (place,))
                self._forget_files(transaction, [(file,)])
                return session._replace(nbytes=session.nbytes - size - len(key.encode()))
        return session

    def _forget_files(self, transaction: Transaction, rows: Iterable[Row]) -> None:
        files = [file for (file,) in rows if file is not None]
        if files:
            transaction.then(if_committed=partial(self._buffers.remove, files))

    def expire(self, owner: str, key: str, key_expires: float | None, moment: Moment) -> bool:
        place = f"{owner}/{key}"
        with self._writing(owner, moment) as (transaction, session):
            was_live = self._has_live(transaction, place, moment)
            if was_live:
                transaction.execute(schema.EXPIRE_KEY, (key_expires, place))
            if session.expiry is not None:
                self._record_use(transaction, owner, session, session.nbytes, moment)
            return was_live

    def delete(self, owner: str, key: str, moment: Moment) -> bool:
        place = f"{owner}/{key}"
        with self._writing(owner, moment) as (transaction, session):
            was_live = self._has_live(transaction, place, moment)
            freed = sum(row[0] for row in transaction.execute(schema.SIZE, (place,)))
            deleted = transaction.execute(schema.DELETE, (place,))
            self._forget_files(transaction, deleted)
            if session.expiry is not None:
                nbytes = session.nbytes - freed - len(key.encode()) if deleted else session.nbytes
                self._record_use(transaction, owner, session, nbytes, moment)
            return was_live

    def clear(self, owner: str, moment: Moment) -> None:
        with self._writing(owner, moment) as (transaction, session):
            if session.expiry is not None:
                self._clear(transaction, owner)
                self._record_use(transaction, owner, session, 0, moment)

    @contextmanager
    def _writing(self, owner: str, moment: Moment) -> Iterator[tuple[Transaction, _Session]]:
        """A transaction on an owner, whose values are gone from it if they have expired."""
        with self._database.transaction() as transaction:
            rows = transaction.execute(schema.SESSION, (owner,))
            if rows and _is_in_future(rows[0][0], moment):
                yield transaction, _Session(*rows[0])
            else:
                self._clear(transaction, owner)
                yield transaction, _Session(None, 0)

    def _clear(self, transaction: Transaction, owner: str) -> None:
        self._forget_files(transaction, transaction.execute(schema.CLEAR, (owner, owner)))

    @staticmethod
    def _has_live(transaction: Transaction, place: str, moment: Moment) -> bool:
        rows = transaction.execute(schema.SIZE, (place,))
        return bool(rows) and _is_live_key(rows[0][1], moment)

    def _charge(self, transaction: Transaction, owner: str, key: str, nbytes: int, growth: int, moment: Moment) -> int:
        if growth > 0 and nbytes + growth > self._max_bytes:
            self._forget_files(transaction, transaction.execute(schema.CLEAR_EXPIRED, (owner, owner, moment.now)))
            nbytes = transaction.execute(schema.MEASURE, {"owner": owner})[0][0]
            if nbytes + growth > self._max_bytes:
                raise QuotaExceeded(
                    f"The value for {key!r} needs {growth} bytes more. The values of one owner may take "
                    f"{self._max_bytes} bytes, and {nbytes} are taken. Delete keys, or raise USER_STORE_MAX_BYTES "
                    "(max_bytes=)."
                )
        return nbytes + growth

    @staticmethod
    def _record_use(transaction: Transaction, owner: str, session: _Session, nbytes: int, moment: Moment) -> None:
        if session.expiry is None or moment.is_touch_due(session.expiry):
            transaction.execute(schema.PUT_SESSION, (owner, moment.expires, nbytes))
        elif nbytes != session.nbytes:
            transaction.execute(schema.PUT_SESSION, (owner, session.expiry, nbytes))

    # Sessions as a whole

    def move(self, owner: str, new_owner: str, reseal: Reseal, moment: Moment) -> None:
        with self._writing(owner, moment) as (transaction, session):
            for key, payload, *_ in self._own_values(schema.ITEMS, owner, moment):
                place = f"{owner}/{key}"
                transaction.execute(schema.MOVE, (f"{new_owner}/{key}", reseal(key, payload), place))
            self._clear(transaction, owner)
            if session.expiry is not None:
                nbytes = transaction.execute(schema.MEASURE, {"owner": new_owner})[0][0]
                transaction.execute(schema.PUT_SESSION, (new_owner, moment.expires, nbytes))
            transaction.execute(schema.PUT_SESSION, (owner, -moment.now, 0))

    def end(self, owner: str, moment: Moment) -> float:
        with self._database.transaction() as transaction:
            rows = transaction.execute(schema.SESSION, (owner,))
            if rows and _is_ended(rows[0][0]):
                return -float(rows[0][0])
            self._clear(transaction, owner)
            transaction.execute(schema.PUT_SESSION, (owner, -moment.now, 0))
            return moment.now

    def limit_expiry(self, prefix: str, latest: float) -> None:
        span = {"prefix": prefix, "end": _end_of(prefix)}
        self._database.change(schema.LIMIT_EXPIRY, span | {"latest": latest})

    def purge(self, now: float, ended_before: float, limit: int, wait: bool = False) -> int:
        removed = 0
        for few in self._past(schema.PAST_OWNERS, (-ended_before, now, limit), wait):
            with self._database.transaction(wait) as transaction:
                removed += sum(self._purge_owner(transaction, owner, expiry) for owner, expiry in few)
                transaction.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        if wait or not now - ORPHAN_AGE < self._orphans_purged_at <= now:
            self._orphans_purged_at = now
            self._purge_orphans(now - ORPHAN_AGE)
        return removed

    def purge_keys(self, now: float, limit: int, wait: bool = False) -> int:
        removed = 0
        for few in self._past(schema.PAST_KEYS, (now, limit), wait):
            with self._database.transaction(wait) as transaction:
                removed += self._purge_keys(transaction, [place for (place,) in few], now)
        return removed

    def _past(self, sql: str, args: tuple[float, ...], wait: bool) -> Iterator[list[Row]]:
        """What has to be purged, a few at a time."""
        with self._database.transaction(wait) as transaction:
            rows = transaction.execute(sql, args)
        for start in range(0, len(rows), PURGED_TOGETHER):
            yield rows[start : start + PURGED_TOGETHER]

    def _purge_owner(self, transaction: Transaction, owner: str, expiry: object) -> bool:
        transaction.execute(schema.DELETE_SESSION, (owner, expiry))
        if not transaction.changes:
            return False  # It has been used again since it was looked for.
        self._clear(transaction, owner)
        return True

    def _purge_keys(self, transaction: Transaction, places: list[str], now: float) -> int:
        removed = 0
        for place in places:
            deleted = transaction.execute(schema.DELETE_EXPIRED, (place, now))
            self._forget_files(transaction, deleted)
            removed += len(deleted)
        for owner in {place.partition("/")[0] for place in places}:
            nbytes = transaction.execute(schema.MEASURE, {"owner": owner})[0][0]
            transaction.execute(schema.RECOUNT, (nbytes, owner))
        return removed

    def _purge_orphans(self, before: float) -> None:
        for file in self._buffers.written_before(before):
            if not self._database.select(schema.IS_NAMED, (file,)):
                self._buffers.remove([file])

    @contextmanager
    def transaction(self, owner: str) -> Iterator[None]:  # noqa: ARG002
        # SQLite locks the database, so this keeps out the writers of all owners, not of this one alone.
        with self._database.transaction():
            yield

    def close(self) -> None:
        self._database.close()
        if self._temporary:
            self._temporary.remove()


def _end_of(prefix: str) -> str:
    """The first text after all that begin with the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"


def _is_live_key(expiry: object, moment: Moment) -> bool:
    """Whether a key has no expiry of its own, or one that is yet to come; an unreadable one is past."""
    return expiry is None or (isinstance(expiry, (float, int)) and expiry > moment.now)


def _is_ended(expiry: object) -> TypeGuard[float]:
    return isinstance(expiry, (float, int)) and expiry < 0


def _is_in_future(expiry: object, moment: Moment) -> TypeGuard[float]:
    """Whether a stored expiry is yet to come. A missing or unreadable one is not.

    :raises SessionEnded: when it says that the owner was ended
    """
    if _is_ended(expiry):
        raise SessionEnded(-expiry)
    return isinstance(expiry, (float, int)) and expiry > moment.now
