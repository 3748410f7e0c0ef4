"""Values in a PostgreSQL database, for any number of hosts."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from operator import itemgetter
from typing import Any

from ...buffers import Stored, batches
from ...errors import SessionEnded, StorageError
from ...expiry import Access
from ...owner import Owner
from ..base import (
    DEFAULT_LIMITS,
    DEFAULT_TIMEOUT,
    ENDED,
    VERSION_BYTES,
    Dump,
    Expired,
    ExpiryLimit,
    KeyExpiry,
    Limits,
    Removed,
    SessionInfo,
    Stat,
    Storage,
    SupportsExport,
    Synchronous,
    Value,
    ValueInfo,
)
from ..name_search import name_pattern
from ..statistics import (
    Order,
    OwnerInfo,
    OwnerPage,
    Space,
    Spread,
    SupportsStatistics,
    Totals,
    page_of_rows,
    spread_of_counts,
)
from ..timeouts import LOOP_TIMEOUT, longest_wait
from .connection import Row, Target
from .pool import Pool
from .schema import NewRow, make_tables, statements, stored
from .transaction import Database

logger = logging.getLogger("flask_dash_store")

# How many bytes are sent together when several values are written.
BATCH_BYTES = 2**24

# How many owners are purged in one transaction, which keeps their locks until it ends.
OWNERS_PER_CALL = 100

# When several values are written, a row takes as long as this many bytes.
BYTES_PER_ROW = 2**10

_NO_LIMITS = Limits(2**62, 2**62)
_NO_EXPIRY_LIMIT = ExpiryLimit("", math.inf)


class PostgresqlStorage(Storage, SupportsExport, SupportsStatistics):
    """Values in a schema of a PostgreSQL database, version 14 or later. The schema is created if it does not exist.

    Acknowledged writes are as durable as the server's commits. With its default settings (``fsync``,
    ``synchronous_commit``), they survive a crash of the server and a power loss. If the connection was lost before the
    answer came, it is not known whether the write was done, and the error says so.

    :param url: ``postgresql://`` or ``postgres://``, with any parameter of libpq
        (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS), ``schema=`` for another
        schema than ``flask_dash_store``, and ``max_connections=`` for how many connections a process may have, by
        default 16. A PgBouncer in between may pool sessions or transactions.
    :param limits: how many bytes and keys one owner may have
    :param timeout: seconds that a call waits for a connection, and for other writers of the same owner. A server that
        is silent for a little more than twice as long has failed.
    :param synchronous: ``"FULL"`` overrides a server whose ``synchronous_commit`` is off; ``"NORMAL"`` does not
    :raises ConfigurationError: if the URL is invalid, or the default isolation level is not READ COMMITTED
    :raises StorageError: if the database cannot be reached, or its user may not create tables
    :raises UnknownFormat: if another version of this package has created the tables
    """

    def __init__(
        self,
        url: str,
        *,
        limits: Limits = DEFAULT_LIMITS,
        timeout: float = DEFAULT_TIMEOUT,
        synchronous: Synchronous = "NORMAL",
    ) -> None:
        target = Target.of(url)
        self.schema = target.schema
        self._limits = limits
        self._timeout = timeout
        self._is_durable = synchronous == "FULL"
        self._statements = {
            timeout_ms: statements(target, timeout_ms, self._is_durable)
            for timeout_ms in (_milliseconds(timeout), _milliseconds(min(timeout, LOOP_TIMEOUT)))
        }
        self._pool = Pool(target, timeout)
        self._database = Database(self, self._pool)
        self._begin_transaction = f"SELECT {target.quoted_schema}.begin_transaction"
        try:
            make_tables(self._database, target)
        except BaseException:
            self.close()
            raise
        self._pool.close_idle()  # If the server forks now, its workers inherit no connection.

    @property
    def _timeout_ms(self) -> int:
        """How long a call may wait here for other writers of the owner."""
        return _milliseconds(longest_wait(self._timeout))

    @property
    def _sql(self) -> dict[str, str]:
        return self._statements[self._timeout_ms]

    # Reading

    def get(self, owner: Owner, key: str, access: Access) -> Stored | None:
        for payload, name, buffers in self._read("get_value", owner, access, key.encode()):
            return None if payload is None else stored(payload, name, buffers)
        return None

    def has(self, owner: Owner, key: str, access: Access) -> bool:
        return (True,) in self._read("has_value", owner, access, key.encode())

    def keys(self, owner: Owner, access: Access, limit: int | None = None, newest_first: bool = False) -> list[str]:
        rows = self._read("list_keys", owner, access, limit, newest_first)
        return [key.decode() for (key,) in rows if key is not None]

    def items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        rows = self._read("list_values", owner, access)
        return [(key.decode(), stored(*value)) for key, *value in rows if key is not None]

    def stat(self, owner: Owner, access: Access) -> Stat:
        for expires, nbytes, keys, user in self._ask("stat_session", owner, access):
            return Stat(expires if keys else None, nbytes, keys, None if user is None else bytes(user))
        return Stat()

    def describe(self, owner: Owner, access: Access) -> list[ValueInfo]:
        rows = self._ask("describe_values", owner, access)
        return [ValueInfo(key.decode(), *known) for _, key, *known in rows if key is not None]

    def versions(self, owner: Owner, keys: Collection[str] | None, access: Access) -> dict[str, bytes]:
        name, session = owner
        query, which = ("list_all_versions", ()) if keys is None else ("list_versions", ([k.encode() for k in keys],))
        args = (session, VERSION_BYTES, access.now, *which, name, name)
        rows = self._live(self._database.select(self._sql[query], args), access)
        return {key.decode(): bytes(version) for _, key, version in rows if key is not None}

    def _read(self, function: str, owner: Owner, access: Access, *args: Any) -> list[Row]:
        """The rows of a function for an owner that has not expired. This is a use of the owner."""
        rows = self._ask(function, owner, access, *args)
        if rows and access.is_touch_due(rows[0][0]):
            self._touch(owner, access)
        return [row[1:] for row in rows]

    def _ask(self, function: str, owner: Owner, access: Access, *args: Any) -> list[Row]:
        """The rows of a function for an owner, each beginning with the owner's expiry; none if it has expired.

        :raises SessionEnded: if the session has ended, or has another id
        """
        return self._live(self._database.select(self._sql[function], (*owner, *access, *args)), access)

    def _live(self, rows: list[Row], access: Access) -> list[Row]:
        if not rows:
            return []
        expires, ended_at = rows[0][:2]
        if ended_at is not None:
            raise SessionEnded(ended_at)
        return [(expires, *row[2:]) for row in rows] if access.is_future(expires) else []

    def _touch(self, owner: Owner, access: Access) -> None:
        """Move the expiry, unless others are writing to the owner. It stays due, so a later read tries again."""
        try:
            self._database.call(self._sql["touch_session"], (*owner, *access))
        except StorageError as error:
            logger.warning("A read could not move the expiry of a session or user: %s", error)

    # Writing

    def set(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        keeps = key_expires == "keep"
        expires = None if keeps else key_expires
        row = NewRow.of(key, value)
        refused = self._write("put_value", owner, access, *row, expires, keeps, *self._limits, nbytes=row.nbytes)
        if refused[0] is not None:
            raise _refusal(self._limits, key, *refused)

    def set_all(self, owner: Owner, values: Iterable[tuple[str, Stored]], access: Access) -> None:
        groups = list(batches(((key, value, None) for key, value in dict(values).items()), BATCH_BYTES))
        with self.transaction(owner) if len(groups) > 1 else nullcontext():
            for group in groups:
                if len(group) == 1:
                    self.set(owner, *group[0][:2], access)
                else:
                    self._put_all(owner, group, access, self._limits)

    def _put_all(self, owner: Owner, values: Sequence[Value], access: Access, limits: Limits) -> None:
        """Store several values in one round trip."""
        rows = [NewRow.of(key, value) for key, value, _ in values]
        nbytes = sum(row.nbytes + BYTES_PER_ROW for row in rows)
        keys, payloads, names, buffers = zip(*rows, strict=True)
        columns = [list(keys), list(payloads), list(names), [each if each is None else bytes(each) for each in buffers]]
        columns.append([key_expires for _, _, key_expires in values])
        number, *refused = self._write("put_values", owner, access, *columns, *limits, nbytes=nbytes)
        if number is not None:
            raise _refusal(limits, values[number - 1][0], *refused)

    def expire(self, owner: Owner, key: str, key_expires: float | None, access: Access) -> bool:
        (is_there,) = self._write("expire_value", owner, access, key.encode(), key_expires)
        return bool(is_there)

    def delete(self, owner: Owner, key: str, access: Access) -> bool:
        (was_there,) = self._write("delete_value", owner, access, key.encode())
        return bool(was_there)

    def clear(self, owner: Owner, access: Access) -> None:
        self._write("clear_session", owner, access)

    def _write(self, function: str, owner: Owner, access: Access, *args: Any, nbytes: int = 0) -> Row:
        """Call a function that writes, and return its row, without the first column, the end of the session.

        :raises SessionEnded: if the session has ended, or has another id
        """
        ended_at, *row = self._database.call(self._sql[function], (*owner, *access, *args), nbytes)
        if ended_at is not None:
            raise SessionEnded(ended_at)
        return tuple(row)

    # Sessions as a whole

    def renew(self, owner: Owner, session: bytes, access: Access, user: bytes | None = None) -> None:
        self._write("renew_session", owner, access, session, user)

    def current(self, owner: Owner, access: Access) -> Owner:  # noqa: ARG002  # Known ids do not expire.
        for session, renewed_at in self._database.select(self._sql["find_session"], (owner.name, owner.name)):
            if session == ENDED:
                raise SessionEnded(renewed_at)
            return owner if session is None else owner._replace(session=bytes(session))
        return owner

    def end(self, owner: Owner, access: Access) -> float:
        (ended_at,) = self._database.call(self._sql["end_session"], (*owner, *access))
        return float(ended_at)

    def sessions(self, user: bytes, access: Access) -> list[SessionInfo]:
        rows = self._database.select(self._sql["list_sessions"], (user, access.now))
        return [SessionInfo(Owner(name, bytes(session)), *row) for name, session, *row in rows]

    def owners(self, prefix: str, access: Access) -> list[str]:
        return [owner for (owner,) in self._database.select(self._sql["list_owners"], (prefix, access.now))]

    # Maintenance

    def maintain(
        self,
        now: float,
        ended_before: float,
        expiry_limit: ExpiryLimit | None = None,
        wait: bool = False,
        expired: Expired | None = None,
    ) -> Removed:
        args = (now, ended_before, *(expiry_limit or _NO_EXPIRY_LIMIT))
        removed = self._maintain(args, OWNERS_PER_CALL, 0, expired)
        if wait and removed == Removed():
            # The rest is locked by others. Waiting for one at a time, without holding another lock, cannot deadlock.
            removed = self._maintain(args, 1, self._timeout_ms, expired)
        return removed

    def _maintain(self, args: tuple[Any, ...], limit: int, timeout_ms: int, expired: Expired | None) -> Removed:
        tells = expired is not None
        *removed, names, keys = self._database.call(self._sql["maintain"], (*args, limit, timeout_ms, tells))
        if expired is not None:
            for name, pairs in groupby(zip(names or (), keys or (), strict=True), itemgetter(0)):
                expired(name, [bytes(key).decode() for _, key in pairs])
        return Removed(*removed)

    # Copying

    def all_owners(self) -> Iterator[str]:
        last = ""
        while rows := self._database.select(self._sql["list_all_owners"], (last,)):
            for (last,) in rows:
                yield last

    def dump(self, name: str) -> Dump | None:
        rows = self._database.select(self._sql["dump_session"], (name,))
        if not rows:
            return None
        expires, session, renewed_at, user, created_at = rows[0][:5]
        values = [
            (key.decode(), stored(*value), key_expires)
            for key, *value, key_expires in (row[5:] for row in rows)
            if key is not None
        ]
        return Dump(
            expires=renewed_at if expires is None else expires,
            session=None if session is None else bytes(session),
            renewed_at=renewed_at,
            values=values,
            user=None if user is None else bytes(user),
            created_at=created_at,
        )

    def load(self, name: str, dump: Dump) -> None:
        expires = None if dump.session == ENDED else dump.expires
        # At the beginning of time, nothing has expired. And loading is not a use.
        access = Access(-math.inf, dump.expires, math.inf)
        with self._transaction(name):
            args = (name, dump.session, dump.renewed_at, dump.user, dump.created_at, expires)
            self._database.call(self._sql["replace_session"], args)
            for group in batches(dump.values, BATCH_BYTES):
                self._put_all(Owner(name, dump.session), group, access, _NO_LIMITS)

    def problems(self) -> Iterator[str]:
        for (problem,) in self._database.select(self._sql["find_problems"]):
            yield problem

    # Statistics

    def totals(self, now: float, largest: int = 0) -> Totals:
        totals = Totals(*self._database.select(self._sql["totals"], {"now": now})[0])
        if not largest:
            return totals
        rows = self._database.select(self._sql["largest"], {"now": now, "limit": largest})
        return totals._replace(largest=tuple(OwnerInfo(*row) for row in rows))

    def spread(self, now: float) -> Spread:
        return spread_of_counts(*self._database.select(self._sql["spread"], {"now": now})[0])

    def find_owners(
        self, prefix: str, order: Order, limit: int, now: float, *, offset: int = 0, containing: str = ""
    ) -> OwnerPage:
        pattern = name_pattern(containing)
        args = {"now": now, "prefix": prefix, "pattern": pattern, "limit": limit, "offset": offset}
        return page_of_rows(self._database.select(self._sql[f"find_owners_{order}"], args))

    def space(self) -> Space:
        """How much is used. A user of the server cannot see how much space its disk has left."""
        return Space(used=self._database.select(self._sql["space"])[0][0])

    # Transactions, and the end

    def transaction(self, owner: Owner) -> AbstractContextManager[Any]:
        return self._transaction(owner.name)

    def _transaction(self, name: str) -> AbstractContextManager[Any]:
        quoted = name.replace("\\", "\\\\").replace("'", "''")  # Several statements in one call cannot have arguments.
        arguments = f"E'{quoted}', {self._timeout_ms}, {self._is_durable}"
        return self._database.transaction_after(f"{self._begin_transaction}({arguments})")

    def close(self) -> None:
        self._pool.close()


def _refusal(limits: Limits, key: str, more_bytes: int, more_keys: int, used_bytes: int, used_keys: int) -> Exception:
    if more_keys and used_keys + more_keys > limits.max_keys:
        return limits.too_many_keys(key, used_keys)
    return limits.quota_exceeded(key, more_bytes, used_bytes)


def _milliseconds(timeout: float) -> int:
    return max(1, math.ceil(timeout * 1000))
