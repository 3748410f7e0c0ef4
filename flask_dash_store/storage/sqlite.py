"""The default storage: sqlitedict tables in one SQLite file in WAL mode.

Two tables. ``values`` keeps ``<owner>/<key>`` -> payload, and when the key expires if it does by itself; an owner's
keys are a range of its primary key, and their order is the rowid's. ``sessions`` keeps ``<owner>`` -> the owner's
expiry, and how many bytes its values take. The expiry is in seconds since the epoch; that of an owner who was ended
is the time of its end, negated. So the past and the long ended are one range of one index.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeGuard

import apsw

from ..errors import QuotaExceeded, SessionEnded, StorageBusy, StorageError
from ..lifetime import Moment
from .base import KeyExpiry, Reseal, Storage
from .database import Database
from .files import TemporaryDirectory, prepare_private_file
from .pool import MemoryPool, Pool
from .tables import Table
from .transaction import Row, Transaction

logger = logging.getLogger("flask_dash_store")

Synchronous = Literal["NORMAL", "FULL"]

DEFAULT_MAX_BYTES = 2**30
DEFAULT_TIMEOUT = 5.0
VACUUM_PAGES = 256
WAL_SIZE_LIMIT = 16 * 2**20

_LIVE_KEY = "(v.expires IS NULL OR v.expires > :now)"
_OWN_KEYS = "v.key >= :owner || '/' AND v.key < :owner || '0'"

GET = 'SELECT s.value, v.value, v.expires FROM "sessions" s LEFT JOIN "values" v ON v.key = ? WHERE s.key = ?'
KEYS = f"""
    SELECT s.value, substr(v.key, length(:owner) + 2)
    FROM "sessions" s LEFT JOIN "values" v ON {_OWN_KEYS} AND {_LIVE_KEY}
    WHERE s.key = :owner ORDER BY v.rowid"""
ITEMS = KEYS.replace("+ 2)", "+ 2), v.value")
COUNT = f"""
    SELECT s.value, (SELECT COUNT(*) FROM "values" v WHERE {_OWN_KEYS} AND {_LIVE_KEY})
    FROM "sessions" s WHERE s.key = :owner"""
OWNERS = f"""
    SELECT s.key FROM "sessions" s
    WHERE s.key >= :prefix AND s.key < :end AND typeof(s.value) IN ('real', 'integer') AND s.value > :now
    AND EXISTS (SELECT 1 FROM "values" v WHERE v.key >= s.key || '/' AND v.key < s.key || '0' AND {_LIVE_KEY})
    ORDER BY s.key"""

SESSION = 'SELECT value, bytes FROM "sessions" WHERE key = ?'
PUT_SESSION = """
    INSERT INTO "sessions" (key, value, bytes) VALUES (?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, bytes = excluded.bytes"""
TOUCH = 'UPDATE "sessions" SET value = ? WHERE key = ? AND value > ?'
DELETE_SESSION = 'DELETE FROM "sessions" WHERE key = ?'

SIZE = 'SELECT length(value), expires FROM "values" WHERE key = ?'
PUT = """
    INSERT INTO "values" (key, value, expires) VALUES (?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires"""
EXPIRE_KEY = 'UPDATE "values" SET expires = ? WHERE key = ?'
DELETE = 'DELETE FROM "values" WHERE key = ?'
CLEAR = "DELETE FROM \"values\" WHERE key >= ? || '/' AND key < ? || '0'"
CLEAR_EXPIRED = "DELETE FROM \"values\" WHERE key >= ? || '/' AND key < ? || '0' AND expires <= ?"
MEASURE = f"""
    SELECT COALESCE(SUM(length(v.value) + length(CAST(v.key AS BLOB)) - length(:owner) - 1), 0)
    FROM "values" v WHERE {_OWN_KEYS}"""
MOVE = 'UPDATE "values" SET key = ?, value = ? WHERE key = ?'

PAST_OWNERS = """
    SELECT key FROM "sessions"
    WHERE value IS NULL OR (value > ? AND value <= ?) OR value >= '' LIMIT ?"""
PAST_KEYS = 'SELECT key FROM "values" WHERE expires <= ? LIMIT ?'


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
        if path == ":memory:":
            self.filename = ":memory:"
            self._database = Database(MemoryPool(self._connect, "in memory", timeout))
        else:
            file = self._temporary.path / "values.sqlite" if self._temporary else Path(str(path))
            self.filename = str(prepare_private_file(file))
            self._database = Database(Pool(self._connect, self.filename, timeout))
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
            f"journal_size_limit = {WAL_SIZE_LIMIT}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def _prepare(self) -> None:
        self._use_wal()
        with self._database.transaction() as transaction:
            self.values = Table(self._database, self.filename, "values", "expires REAL")
            self.sessions = Table(self._database, self.filename, "sessions", "bytes INTEGER NOT NULL DEFAULT 0")
            transaction.execute('CREATE INDEX IF NOT EXISTS "sessions_by_expiry" ON "sessions" (value)')
            transaction.execute(
                'CREATE INDEX IF NOT EXISTS "values_by_expiry" ON "values" (expires) WHERE expires IS NOT NULL'
            )

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

    def get(self, owner: str, key: str, moment: Moment) -> bytes | None:
        row = self._database.select_one(GET, (f"{owner}/{key}", owner))
        if row is None:
            return None
        expiry, payload, key_expires = row
        if not self._is_alive(owner, expiry, moment) or (key_expires is not None and key_expires <= moment.now):
            return None
        return payload  # type: ignore[no-any-return]

    def has(self, owner: str, key: str, moment: Moment) -> bool:
        return self.get(owner, key, moment) is not None

    def keys(self, owner: str, moment: Moment) -> list[str]:
        return [key for _, key in self._own_rows(KEYS, owner, moment) if key is not None]

    def items(self, owner: str, moment: Moment) -> list[tuple[str, bytes]]:
        return [(key, payload) for _, key, payload in self._own_rows(ITEMS, owner, moment) if key is not None]

    def count(self, owner: str, moment: Moment) -> int:
        rows = self._own_rows(COUNT, owner, moment)
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
        try:
            with self._database.transaction(wait=False) as transaction:
                transaction.execute(TOUCH, (moment.expires, owner, moment.now))
        except StorageBusy:
            pass  # It stays due for the rest of the TTL, so a later use will find the writers' turn free.
        except StorageError as error:
            logger.warning("A session's expiry could not be moved: %s", error)

    def expiry(self, owner: str, moment: Moment) -> float | None:
        row = self._database.select_one(SESSION, (owner,))
        return row[0] if row and _is_in_future(row[0], moment) else None

    def nbytes(self, owner: str, moment: Moment) -> int:
        row = self._database.select_one(SESSION, (owner,))
        return row[1] if row and _is_in_future(row[0], moment) else 0

    def owners(self, prefix: str, moment: Moment) -> list[str]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        rows = self._database.select(OWNERS, {"prefix": prefix, "end": end, "now": moment.now})
        return [owner for (owner,) in rows]

    # Writing

    def set(self, owner: str, key: str, payload: bytes, moment: Moment, key_expires: KeyExpiry = None) -> None:
        place = f"{owner}/{key}"
        with self._writing(owner, moment) as (transaction, session):
            old = transaction.execute(SIZE, (place,))
            if key_expires == "keep":
                key_expires = old[0][1] if old else None
            growth = len(payload) - old[0][0] if old else len(payload) + len(key.encode())
            nbytes = self._charge(transaction, owner, session.nbytes, growth, moment)
            transaction.execute(PUT, (place, payload, key_expires))
            self._record_use(transaction, owner, session, nbytes, moment)

    def expire(self, owner: str, key: str, key_expires: float | None, moment: Moment) -> bool:
        place = f"{owner}/{key}"
        with self._writing(owner, moment) as (transaction, session):
            if not self._has_live(transaction, place, moment):
                return False
            transaction.execute(EXPIRE_KEY, (key_expires, place))
            self._record_use(transaction, owner, session, session.nbytes, moment)
            return True

    def delete(self, owner: str, key: str, moment: Moment) -> bool:
        place = f"{owner}/{key}"
        with self._writing(owner, moment) as (transaction, session):
            was_live = self._has_live(transaction, place, moment)
            freed = sum(size for size, _ in transaction.execute(SIZE, (place,)))
            transaction.execute(DELETE, (place,))
            if transaction.changes:
                self._record_use(transaction, owner, session, session.nbytes - freed - len(key.encode()), moment)
            return was_live

    def clear(self, owner: str, moment: Moment) -> None:
        with self._writing(owner, moment) as (transaction, session):
            if session.expiry is not None:
                transaction.execute(CLEAR, (owner, owner))
                self._record_use(transaction, owner, session, 0, moment)

    @contextmanager
    def _writing(self, owner: str, moment: Moment) -> Iterator[tuple[Transaction, _Session]]:
        """A transaction on an owner, whose values are gone from it if they have expired."""
        with self._database.transaction() as transaction:
            rows = transaction.execute(SESSION, (owner,))
            if rows and _is_in_future(rows[0][0], moment):
                yield transaction, _Session(*rows[0])
            else:
                transaction.execute(CLEAR, (owner, owner))
                yield transaction, _Session(None, 0)

    @staticmethod
    def _has_live(transaction: Transaction, place: str, moment: Moment) -> bool:
        rows = transaction.execute(SIZE, (place,))
        return bool(rows) and (rows[0][1] is None or rows[0][1] > moment.now)

    def _charge(self, transaction: Transaction, owner: str, nbytes: int, growth: int, moment: Moment) -> int:
        if growth > 0 and nbytes + growth > self._max_bytes:
            transaction.execute(CLEAR_EXPIRED, (owner, owner, moment.now))
            nbytes = transaction.execute(MEASURE, {"owner": owner})[0][0]
            if nbytes + growth > self._max_bytes:
                raise QuotaExceeded(
                    f"The values of one owner may take {self._max_bytes} bytes, {nbytes} are taken, and this write "
                    f"needs {growth} more. Delete keys, or raise USER_STORE_MAX_BYTES (max_bytes=)."
                )
        return nbytes + growth

    @staticmethod
    def _record_use(transaction: Transaction, owner: str, session: _Session, nbytes: int, moment: Moment) -> None:
        if session.expiry is None or moment.is_touch_due(session.expiry):
            transaction.execute(PUT_SESSION, (owner, moment.expires, nbytes))
        elif nbytes != session.nbytes:
            transaction.execute(PUT_SESSION, (owner, session.expiry, nbytes))

    # Sessions as a whole

    def move(self, owner: str, new_owner: str, reseal: Reseal, moment: Moment) -> None:
        with self._writing(owner, moment) as (transaction, session):
            for key, payload in self.items(owner, moment):
                place = f"{owner}/{key}"
                transaction.execute(MOVE, (f"{new_owner}/{key}", reseal(key, payload), place))
            transaction.execute(CLEAR, (owner, owner))
            if session.expiry is not None:
                nbytes = transaction.execute(MEASURE, {"owner": new_owner})[0][0]
                transaction.execute(PUT_SESSION, (new_owner, moment.expires, nbytes))
            transaction.execute(PUT_SESSION, (owner, -moment.now, 0))

    def end(self, owner: str, moment: Moment) -> float:
        with self._database.transaction() as transaction:
            rows = transaction.execute(SESSION, (owner,))
            if rows and _is_ended(rows[0][0]):
                return -float(rows[0][0])
            transaction.execute(CLEAR, (owner, owner))
            transaction.execute(PUT_SESSION, (owner, -moment.now, 0))
            return moment.now

    def purge(self, now: float, ended_before: float, limit: int, wait: bool = False) -> int:
        with self._database.transaction(wait) as transaction:
            owners = transaction.execute(PAST_OWNERS, (-ended_before, now, limit))
            for (owner,) in owners:
                transaction.execute(CLEAR, (owner, owner))
                transaction.execute(DELETE_SESSION, (owner,))
            self._purge_keys(transaction, now, limit)
        self._database.select(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        return len(owners)

    @staticmethod
    def _purge_keys(transaction: Transaction, now: float, limit: int) -> None:
        places = [place for (place,) in transaction.execute(PAST_KEYS, (now, limit))]
        for place in places:
            transaction.execute(DELETE, (place,))
        for owner in {place.partition("/")[0] for place in places}:
            transaction.execute(
                'UPDATE "sessions" SET bytes = ? WHERE key = ?',
                (transaction.execute(MEASURE, {"owner": owner})[0][0], owner),
            )

    @contextmanager
    def transaction(self, owner: str) -> Iterator[None]:  # noqa: ARG002
        # SQLite locks the database, so this keeps out the writers of all owners, not of this one alone.
        with self._database.transaction():
            yield

    def close(self) -> None:
        self._database.close()
        if self._temporary:
            self._temporary.remove()


def _is_ended(expiry: object) -> TypeGuard[float]:
    return isinstance(expiry, (float, int)) and expiry < 0


def _is_in_future(expiry: object, moment: Moment) -> TypeGuard[float]:
    """Whether a stored expiry is yet to come. A missing or unreadable one is not.

    :raises SessionEnded: when it says that the owner was ended
    """
    if _is_ended(expiry):
        raise SessionEnded(-expiry)
    return isinstance(expiry, (float, int)) and expiry > moment.now
