"""The storage on a Redis or Valkey server, for an app on several machines.

Each operation on a key is one round trip: a read is one HMGET, a write is one script (``scripts.py``), and
what a block does is committed by one script (``transaction.py``).

Who is live is decided by the time that the caller says, as in every storage. The server's own expiry then removes
from its memory what nobody can see any more. It is given durations, not times, so the server's clock is not asked.

What the server promises is what is kept: with ``appendonly yes`` a write that was acknowledged survives the server's
process, and a power loss except for the last second or two (``appendfsync always``: all of it); without, it is lost
with the process unless a snapshot has it. A replica lags behind its master, so a failover may lose the last writes.
Set ``maxmemory-policy noeviction``, or a full server deletes what users have stored.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from ...buffers import Stored
from ...errors import StorageBusy, StorageCorrupt, StorageError, ValueTooLarge
from ...expiry import Access
from ..base import Dump, KeyExpiry, ReSign, Storage, Value
from ..expiry import is_ended, is_in_future, is_live_key
from ..limits import Limits
from . import scripts
from .calls import Calls
from .record import (
    Header,
    all_headers,
    batches,
    expiry_argument,
    headers_in_order,
    parse_expiry,
    parse_header,
    problems,
    stored_value,
    value_arguments,
)
from .server import Server, logger
from .transaction import SHORTEST_LEASE, Leases, Transaction
from .url import DEFAULT_PREFIX, parse

# A server is given a second at least, however little a call waits for other writers.
SHORTEST_PATIENCE = 1.0
_BATCH, _BATCH_BYTES = 200, 32 * 2**20


class RedisStorage(Storage):
    """Values in a hash for each owner, on a server, or on the servers of a cluster.

    :param url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://`` or ``redis+cluster://``, or the same
        with ``valkey`` for ``redis``; ``?prefix=`` in it overrides ``prefix``
    :param max_bytes: how many bytes the keys and values of one owner may take
    :param max_keys: how many keys one owner may have
    :param timeout: seconds that a call waits for other writers; the server has as long to answer, and a second at least
    :param keep_ended: seconds for which it must be known that an owner was ended
    :param prefix: what all keys on the server begin with, so that several apps can share it
    :param lease: seconds for which a transaction keeps others out that is not heard of: since its last call. None for
        10, or twice the timeout if that is longer
    :raises ConfigurationError: when the URL is none of these, or redis-py is not installed
    :raises StorageError: when the server lets nobody in with these credentials. One that cannot be reached is no
        error here, but in each call until it can be.
    """

    purges_itself: ClassVar[bool] = True

    def __init__(
        self,
        url: str,
        *,
        max_bytes: int,
        max_keys: int,
        timeout: float,
        keep_ended: float,
        prefix: str = DEFAULT_PREFIX,
        lease: float | None = None,
    ) -> None:
        target = parse(url, prefix, max(timeout, SHORTEST_PATIENCE))
        lease = max(SHORTEST_LEASE, 2 * timeout) if lease is None else lease
        self._limits = Limits(max_bytes, max_keys)
        self._server = Server(target, timeout)
        self._leases = Leases(self._server, target.prefix, timeout, lease, keep_ended)
        self._calls = Calls(self._server, self._leases)
        self._server.check()

    # Reading

    def get(self, owner: str, key: str, access: Access) -> Stored | None:
        name = key.encode()
        expires, header, payload, body = self._calls.fields(
            owner, access.now, b"expires", b"i:" + name, b"v:" + name, b"b:" + name
        )
        known = self._live_header(owner, expires, header, access)
        return None if known is None else stored_value(key, known, payload, body)

    def has(self, owner: str, key: str, access: Access) -> bool:
        expires, header = self._calls.fields(owner, access.now, b"expires", b"i:" + key.encode())
        return self._live_header(owner, expires, header, access) is not None

    def _live_header(self, owner: str, expires: bytes | None, text: bytes | None, access: Access) -> Header | None:
        header = parse_header(text)
        is_alive = self._is_alive(owner, expires, access)
        return header if is_alive and header and is_live_key(header.expires, access) else None

    def _is_alive(self, owner: str, expires: bytes | None, access: Access) -> bool:
        expiry = parse_expiry(expires)
        if not is_in_future(expiry, access):
            return False
        if access.is_touch_due(expiry):
            self._touch(owner, access)
        return True

    def _touch(self, owner: str, access: Access) -> None:
        """It stays due, so a later read does what this one cannot."""
        try:
            self._calls.touch(owner, access)
        except StorageBusy:
            pass  # Somebody writes at this access, and a read waits for nobody.
        except StorageError as error:
            logger.warning("A read could not write down that a value was used: %s", error)

    def keys(self, owner: str, access: Access) -> list[str]:
        expires, headers = self._index(owner, access)
        return [key for key, _ in headers] if self._is_alive(owner, expires, access) else []

    def count(self, owner: str, access: Access) -> int:
        return len(self.keys(owner, access))

    def _index(self, owner: str, access: Access) -> tuple[bytes | None, list[tuple[str, Header]]]:
        """The owner's expiry, and the headers of its keys that have not expired by themselves."""
        expires, *headers = self._calls.read(scripts.INDEX, owner, access.now)
        return expires, [pair for pair in headers_in_order(headers) if is_live_key(pair[1].expires, access)]

    def items(self, owner: str, access: Access) -> list[tuple[str, Stored]]:
        return [(key, value) for key, value, _ in self._live_values(owner, access)]

    def _live_values(self, owner: str, access: Access) -> list[Value]:
        fields = self._calls.all_fields(owner, access.now)
        if not self._is_alive(owner, fields.get(b"expires"), access):
            return []
        return [value for value in _values(fields) if is_live_key(value[2], access)]

    def expiry(self, owner: str, access: Access) -> float | None:
        expires, headers = self._index(owner, access)
        expiry = parse_expiry(expires)
        return expiry if is_in_future(expiry, access) and headers else None

    def nbytes(self, owner: str, access: Access) -> int:
        expires, headers = self._index(owner, access)
        is_alive = is_in_future(parse_expiry(expires), access)
        return sum(header.nbytes for _, header in headers) if is_alive else 0

    # Writing

    def set(self, owner: str, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        parts = value_arguments(value)
        for part in (parts[0], parts[2]):
            if len(part) > self._server.max_part_bytes:
                raise ValueTooLarge(
                    f"The value for {key!r} has a part of {len(part)} bytes, and the server {self._server.name} takes "
                    f"{self._server.max_part_bytes} (its setting proto-max-bulk-len). Store it in parts, or raise that."
                )
        args = (*self._limits, key, expiry_argument(key_expires), *parts)
        status, *answer = self._calls.use(scripts.SET, owner, access, *args)
        if status == b"KEYS":
            raise self._limits.too_many_keys(key)
        if status == b"BYTES":
            raise self._limits.quota_exceeded(key, *answer)

    def expire(self, owner: str, key: str, key_expires: float | None, access: Access) -> bool:
        return bool(self._calls.use(scripts.EXPIRE, owner, access, key, expiry_argument(key_expires))[1])

    def delete(self, owner: str, key: str, access: Access) -> bool:
        return bool(self._calls.use(scripts.DELETE, owner, access, key)[1])

    def clear(self, owner: str, access: Access) -> None:
        self._calls.use(scripts.CLEAR, owner, access)

    # Sessions as a whole

    def move(self, owner: str, new_owner: str, re_sign: ReSign, access: Access) -> None:
        with self.transaction(owner):
            fields = self._calls.all_fields(owner, access.now)
            if is_in_future(parse_expiry(fields.get(b"expires")), access):
                values = [
                    (key, (re_sign(key, payload), body), expires)
                    for key, (payload, body), expires in _values(fields)
                    if is_live_key(expires, access)
                ]
                self._fill(new_owner, access.expires, values, access.now)
            self.end(owner, access)

    def _fill(self, owner: str, expires: float, values: list[Value], now: float) -> None:
        """Put values in the place of all that is kept of an owner, in a transaction."""
        mode = "anew"
        for batch in batches(values, _BATCH, _BATCH_BYTES):
            self._calls.write(scripts.FILL, owner, now, mode, repr(expires), *batch)
            mode = "more"

    def end(self, owner: str, access: Access) -> float:
        return -float(self._calls.write(scripts.END, owner, access.now)[1])

    # Copying

    def everyone(self) -> Iterator[str]:
        seen: set[str] = set()
        for owners in self._scan(""):
            found = set(owners) - seen
            seen |= found
            yield from found

    def dump(self, owner: str) -> Dump | None:
        fields = self._calls.all_fields(owner, 0.0)
        if not fields:
            return None
        expiry = parse_expiry(fields.get(b"expires")) or 0.0
        if is_ended(expiry):
            return Dump(-expiry, -expiry, [])
        values: list[Value] = []
        damaged: list[str] = []
        for key, header in all_headers(fields):
            try:
                values.append((key, _value(key, header, fields), header.expires))
            except StorageCorrupt:
                damaged.append(key)
        return Dump(expiry, None, values, tuple(damaged))

    def load(self, owner: str, dump: Dump) -> None:
        with self.transaction(owner):
            self._fill(owner, dump.expires if dump.ended_at is None else -dump.ended_at, dump.values, time.time())

    def problems(self) -> Iterator[str]:
        for owner in self.everyone():
            try:
                fields = self._calls.all_fields(owner, 0.0)
            except StorageCorrupt as error:
                yield f"{owner}: {error}"
            else:
                # It may have been deleted since it was found.
                yield from (f"{owner}: {problem}" for problem in problems(fields) if fields)

    # Purging

    def owners(self, prefix: str, access: Access) -> list[str]:
        return sorted(
            {
                owner
                for owner, expiry in self._expiries(prefix)
                if expiry is not None and expiry > access.now and self._index(owner, access)[1]
            }
        )

    def limit_expiry(self, prefix: str, latest: float) -> None:
        for owner, expiry in self._expiries(prefix):
            if expiry is not None and latest < expiry < float("inf"):
                self._calls.write(scripts.LIMIT_EXPIRY, owner, time.time(), repr(latest), joins=False)

    def purge(self, now: float, ended_before: float, limit: int, wait: bool = False) -> int:
        removed, ended_before = 0, max(ended_before, 0.0)
        for owner, expiry in self._expiries(""):
            if removed == limit:
                break
            if expiry is None or -ended_before < expiry <= now:
                removed += self._calls.write(scripts.PURGE, owner, now, repr(ended_before), wait=wait, joins=False)[1]
        return removed

    def purge_keys(self, now: float, limit: int, wait: bool = False) -> int:
        removed = 0
        for owner, _ in self._expiries(""):
            if removed == limit:
                break
            removed += self._calls.write(scripts.PURGE_KEYS, owner, now, limit - removed, wait=wait, joins=False)[1]
        return removed

    def _expiries(self, prefix: str) -> Iterator[tuple[str, float | None]]:
        """The owners whose names begin so, with their expiries. Some may be given several times."""
        for owners in self._scan(prefix):
            commands = [("HGET", self._leases.keys(owner)[0], "expires") for owner in owners]
            yield from zip(owners, map(parse_expiry, self._server.execute_each(commands)), strict=True)

    def _scan(self, prefix: str) -> Iterator[list[str]]:
        """The owners whose names begin so. Some may be given several times: to know, one would have to hold all."""
        start = f"{self._leases.prefix}{{"
        for keys in self._server.scan(start + re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*}"):
            yield [key[len(start) : -1] for key in keys]

    # Transactions, and the end

    @contextmanager
    def transaction(self, owner: str) -> Iterator[None]:
        transaction = self._leases.current()
        with Transaction(self._leases, owner) if transaction is None else transaction.part(owner):
            yield

    def on_rollback(self, call: Callable[[], None]) -> None:
        transaction = self._leases.current()
        if transaction is not None:
            transaction.on_rollback(call)

    def close(self) -> None:
        self._server.close()


def _values(fields: dict[bytes, bytes]) -> list[Value]:
    """An owner's values in the order of their keys, each with the time when its key is gone by itself."""
    return [(key, _value(key, header, fields), header.expires) for key, header in all_headers(fields)]


def _value(key: str, header: Header, fields: dict[bytes, bytes]) -> Stored:
    name = key.encode()
    return stored_value(key, header, fields.get(b"v:" + name), fields.get(b"b:" + name))
