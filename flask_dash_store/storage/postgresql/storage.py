"""Values in a PostgreSQL database, for as many hosts as reach it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...buffers import Buffers, Stored
from ...errors import SessionEnded, StorageBusy, StorageError, ValueTooLarge
from ...expiry import Access
from ..base import Dump, KeyExpiry, ReSign, Storage, Synchronous
from ..limits import DEFAULT_MAX_BYTES, DEFAULT_MAX_KEYS, DEFAULT_TIMEOUT, Limits
from . import statements
from .connection import MAX_VALUE_BYTES, Bindings, Row, Target
from .opening import make_tables
from .pool import Pool
from .transaction import Database

logger = logging.getLogger("flask_dash_store")

# So many are purged in one transaction, whose locks are kept until it ends.
PURGED_TOGETHER = 20


class PostgresqlStorage(Storage):
    """Values in a schema of a PostgreSQL database, version 14 or later, which is made if it is not there.

    What was acknowledged is stored as safely as the server stores what it commits: with its own settings
    (``fsync``, ``synchronous_commit``) that outlives a crash of the server and a power loss. Whether a write was stored
    whose connection was lost before the answer came, nobody knows, and the error says so.

    :param url: ``postgresql://`` or ``postgres://``, with any parameter of libpq
        (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS), and ``schema=`` for another
        name than ``flask_dash_store``. A PgBouncer in between has to pool sessions, not transactions.
    :param max_bytes: how many bytes the keys and values of one owner may take
    :param max_keys: how many keys one owner may have
    :param timeout: seconds that a call waits for a connection, and for others who write to the same owner. A server
        that is silent for a little more than twice as long has failed.
    :param synchronous: ``"FULL"`` overrules a server whose ``synchronous_commit`` is off; ``"NORMAL"`` leaves it so
    :raises ConfigurationError: when the URL cannot be used
    :raises StorageError: when the database cannot be reached, or lets us make no tables
    :raises UnknownFormat: when the tables are of a newer version of this package
    """

    def __init__(
        self,
        url: str,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_keys: int = DEFAULT_MAX_KEYS,
        timeout: float = DEFAULT_TIMEOUT,
        synchronous: Synchronous = "NORMAL",
    ) -> None:
        target = Target.of(url)
        self._limits = Limits(max_bytes, max_keys)
        self._database = Database(Pool(target, timeout, synchronous))
        try:
            make_tables(self._database, target)
        except BaseException:
            self.close()
            raise

    # Reading

    def get(self, owner: str, key: str, access: Access) -> Stored | None:
        for payload, *body in self._read(statements.GET, owner, access, key):
            return None if payload is None else _stored(payload, *body)
        return None

    def has(self, owner: str, key: str, access: Access) -> bool:
        return (True,) in self._read(statements.HAS, owner, access, key)

    def keys(self, owner: str, access: Access) -> list[str]:
        return [key.decode() for (key,) in self._read(statements.KEYS, owner, access) if key is not None]

    def items(self, owner: str, access: Access) -> list[tuple[str, Stored]]:
        rows = self._read(statements.ITEMS, owner, access)
        return [(key.decode(), _stored(*value)) for key, *value in rows if key is not None]

    def count(self, owner: str, access: Access) -> int:
        return sum(count for (count,) in self._read(statements.COUNT, owner, access))

    def _read(self, sql: str, owner: str, access: Access, key: str = "") -> list[Row]:
        """What a query says of an owner who is live, which is a use of it."""
        rows = self._ask(sql, owner, access, key)
        if not rows:
            return []
        expiry = rows[0][0]
        if access.is_touch_due(expiry):
            self._touch(owner, access)
        return [row[2:] for row in rows]

    def _ask(self, sql: str, owner: str, access: Access, key: str = "") -> list[Row]:
        """What a query says of an owner; nothing when the owner's time is over."""
        rows = self._database.select(sql, {"owner": owner, "key": key.encode(), "now": access.now})
        if not rows:
            return []
        expiry, ended_at = rows[0][:2]
        if ended_at is not None:
            raise SessionEnded(ended_at)
        return rows if expiry > access.now else []

    def _touch(self, owner: str, access: Access) -> None:
        """Move the expiry, if nobody else writes at this access. It stays due, so a later read may do it."""
        try:
            self._database.call(statements.TOUCH, {"owner": owner, "now": access.now, "expires": access.expires})
        except StorageError as error:
            logger.warning("A read could not write down that a value was used: %s", error)

    def expiry(self, owner: str, access: Access) -> float | None:
        for expiry, _, has_values in self._ask(statements.EXPIRY, owner, access):
            return expiry if has_values else None
        return None

    def nbytes(self, owner: str, access: Access) -> int:
        return sum(row[2] for row in self._ask(statements.NBYTES, owner, access))

    def owners(self, prefix: str, access: Access) -> list[str]:
        rows = self._database.select(statements.OWNERS, {"prefix": prefix, "now": access.now})
        return [owner for (owner,) in rows]

    # Writing

    def set(self, owner: str, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        fields, nbytes = _fields(key, value)
        keeps = key_expires == "keep"
        fields |= {"key_expires": None if keeps else key_expires, "keeps": keeps, **self._limits._asdict()}
        _, more_bytes, more_keys, taken_bytes, taken_keys = self._write(statements.SET, owner, access, fields, nbytes)
        if more_bytes is not None:
            raise self._limits.refusal(key, more_bytes, more_keys, taken_bytes, taken_keys)

    def expire(self, owner: str, key: str, key_expires: float | None, access: Access) -> bool:
        args = {"key": key.encode(), "key_expires": key_expires}
        _, is_there = self._write(statements.EXPIRE, owner, access, args)
        return bool(is_there)

    def delete(self, owner: str, key: str, access: Access) -> bool:
        _, was_there = self._write(statements.DELETE, owner, access, {"key": key.encode()})
        return bool(was_there)

    def clear(self, owner: str, access: Access) -> None:
        self._write(statements.CLEAR, owner, access, {})

    def _write(self, sql: str, owner: str, access: Access, args: Bindings, nbytes: int = 0) -> Row:
        """What a function says that writes, after when the owner ended, which it has not."""
        row = self._database.call(sql, {"owner": owner, **access._asdict(), **args}, nbytes)
        if row[0] is not None:
            raise SessionEnded(row[0])
        return row

    # Sessions as a whole

    def move(self, owner: str, new_owner: str, re_sign: ReSign, access: Access) -> None:
        with self._database.transaction(owner, new_owner):
            rows = [row for row in self._ask(statements.PAYLOADS, owner, access) if row[2] is not None]
            keys = [bytes(key) for _, _, key, _ in rows]
            payloads = [re_sign(key.decode(), bytes(payload)) for _, _, key, payload in rows]
            moved = {"owner": owner, "new_owner": new_owner, "keys": keys, "payloads": payloads}
            self._database.call(statements.MOVE, moved | {"now": access.now, "expires": access.expires})

    def end(self, owner: str, access: Access) -> float:
        (ended_at,) = self._database.call(statements.END, {"owner": owner, "now": access.now})
        return float(ended_at)

    # Copying

    def everyone(self) -> Iterator[str]:
        last = 0
        while rows := self._database.select(statements.EVERYONE, {"last": last}):
            for last, owner in rows:  # noqa: B007
                yield owner

    def dump(self, owner: str) -> Dump | None:
        rows = self._database.select(statements.DUMP, {"owner": owner})
        if not rows:
            return None
        expires, ended_at = rows[0][:2]
        if ended_at is not None:
            return Dump(ended_at, ended_at, [])
        values = [
            (key.decode(), _stored(*value), key_expires) for _, _, key, *value, key_expires in rows if key is not None
        ]
        return Dump(expires, None, values)

    def load(self, owner: str, dump: Dump) -> None:
        with self._database.transaction(owner):
            expires = None if dump.ended_at is not None else dump.expires
            (session,) = self._database.call(
                statements.REPLACE, {"owner": owner, "expires": expires, "ended_at": dump.ended_at}
            )
            for key, value, key_expires in dump.values:
                fields, nbytes = _fields(key, value)
                self._database.call(statements.LOAD, fields | {"session": session, "key_expires": key_expires}, nbytes)
            self._database.call(statements.RECOUNT, {"session": session})

    # Purging

    def limit_expiry(self, prefix: str, latest: float) -> None:
        self._database.call(statements.LIMIT_EXPIRY, {"prefix": prefix, "latest": latest})

    def purge(self, now: float, ended_before: float, limit: int, wait: bool = False) -> int:
        args = {"now": now, "ended_before": ended_before, "waits": wait}
        return self._purge(statements.PURGE_SESSIONS, args, limit)

    def purge_keys(self, now: float, limit: int, wait: bool = False) -> int:
        return self._purge(statements.PURGE_VALUES, {"now": now, "waits": wait}, limit)

    def _purge(self, sql: str, args: Bindings, limit: int) -> int:
        """Purge in short transactions. Without waiting, those whom others write to are left for another time."""
        total = 0
        while few := min(PURGED_TOGETHER, limit - total):
            (removed,) = self._database.call(sql, args | {"limit": few})
            if removed is None and not total:
                raise StorageBusy("Others are writing to all that was to be purged, and it was not to wait for them.")
            total += removed or 0
            if removed != few:
                break
        return total

    # Transactions, and the end

    @contextmanager
    def transaction(self, owner: str) -> Iterator[None]:
        with self._database.transaction(owner):
            yield

    def on_rollback(self, call: Callable[[], None]) -> None:
        self._database.on_rollback(call)

    def close(self) -> None:
        self._database.close()


def _stored(payload: bytearray, body_name: str | None, body: bytearray | None) -> Stored:
    if body_name is None or body is None:
        return bytes(payload), None
    return bytes(payload), Buffers(body_name, [memoryview(body)])


def _fields(key: str, value: Stored) -> tuple[dict[str, Any], int]:
    """What is written of a value, and how many bytes it takes.

    :raises ValueTooLarge: when PostgreSQL takes no value of this size
    """
    payload, body = value
    nbytes = len(payload) + (body.nbytes if body else 0)
    if nbytes > MAX_VALUE_BYTES:
        raise ValueTooLarge(
            f"The value for {key!r} takes {nbytes} bytes, and PostgreSQL takes {MAX_VALUE_BYTES} in one field. Store "
            "it in parts."
        )
    name = body.name if body else None
    return {"key": key.encode(), "payload": payload, "body_name": name, "body": body and body.joined()}, nbytes
