"""The storage on a Redis or Valkey server, for an app on several machines.

Each operation on a key is one round trip: a read is one HMGET, a write is one script (``scripts.py``), and a
transaction is committed by one script (``transaction.py``). Reading a large value needs a second round trip for its
buffers, because a script would copy them twice. So does reading an owner without values.

As in every storage, the caller's clock decides whether a value has expired. The server's own expiry removes it from
memory later. It gets durations, not times, so the server's clock does not matter.

Durability is the server's. With ``appendonly yes``, acknowledged writes survive the end of the server's process, and a
power loss except for the last second or two (with ``appendfsync always``, all of them). Otherwise they are lost with
the process, unless a snapshot contains them. A replica lags behind its master, so a failover may lose the last writes.
Set ``maxmemory-policy noeviction``, or a full server deletes what users have stored.

A server user needs these rights. ``+info`` and ``+config|get`` are only for warnings and clear errors. A cluster also
needs ``+cluster|slots`` and ``+command``::

    ACL SETUSER app on >password ~user_store:* resetchannels -@all +ping +select +client|setinfo +eval +evalsha +scan
        +get +mget +set +strlen +exists +del +unlink +pexpire +persist
        +hget +hset +hdel +hmget +hgetall +hkeys +hscan +hexists +hincrby
        +sadd +srem +smembers +sismember +zadd +zrem +zrange +zrangebyscore +zscore
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager

from ...buffers import Stored, batches
from ...errors import SessionEnded, StorageBusy, StorageError, ValueTooLarge
from ...expiry import Access
from ...owner import Owner
from ..base import DEFAULT_LIMITS, DEFAULT_TIMEOUT, ENDED, KeyExpiry, Limits, SessionInfo, Stat, ValueInfo
from . import scripts
from .all_owners import BATCH, BATCH_BYTES, AllOwners
from .owner_record import (
    ANY_SESSION,
    Calls,
    Entry,
    Header,
    all_headers,
    expiry_argument,
    headers_in_order,
    parse_header,
    parse_time,
    stored_value,
    value_arguments,
    value_of,
)
from .server import Server, logger
from .transaction import MIN_LEASE, Leases, Transaction
from .url import DEFAULT_PREFIX, parse

# The server has at least a second to answer, even if a call waits less for other writers.
MIN_TIMEOUT = 1.0
# An entry of a user's index is written before the session that it names, so a recent one is not stale.
_INDEX_GRACE = 3600.0


class RedisStorage(AllOwners):
    """Values in a hash for each owner, on a server, or on the servers of a cluster.

    :param url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://`` or ``redis+cluster://``, or the same
        with ``valkey`` instead of ``redis``. ``?prefix=`` in it overrides ``prefix``, and ``?max_connections=`` is how
        many connections a process may have, by default 64.
    :param limits: how much one owner may store
    :param timeout: seconds that a call waits for other writers. The server has as long to answer, but at least a
        second.
    :param keep_ended: seconds for which ended sessions are remembered
    :param prefix: the prefix of all keys on the server, so that several apps can share it
    :param lease: seconds after which a transaction without calls loses its lease; None for 10, or twice the timeout if
        that is longer
    :raises ConfigurationError: if the URL is invalid, or redis-py is not installed
    :raises StorageError: if the server refuses the credentials. It is not an error here if the server cannot be
        reached: each call raises one until it can.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: Limits = DEFAULT_LIMITS,
        timeout: float = DEFAULT_TIMEOUT,
        keep_ended: float = float("inf"),
        prefix: str = DEFAULT_PREFIX,
        lease: float | None = None,
    ) -> None:
        target = parse(url, prefix, max(timeout, MIN_TIMEOUT))
        lease = max(MIN_LEASE, 2 * timeout) if lease is None else lease
        self._limits = limits
        self._server = Server(target, timeout)
        self._leases = Leases(self, self._server, target.prefix, timeout, lease, keep_ended)
        self._calls = Calls(self._server, self._leases)
        self._server.check()

    # Reading

    def get(self, owner: Owner, key: str, access: Access) -> Stored | None:
        name, seen = key.encode(), None
        while True:
            expires, text, payload = self._calls.fields(owner, access.now, b"i:" + name, b"v:" + name)
            header = self._live_header(owner, expires, text, access)
            if header is None or header.buffers is None:
                return None if header is None else stored_value(key, header, payload, None)
            (content,) = self._calls.buffers(owner.name, [header.buffers])
            if content is not None or text == seen:
                return stored_value(key, header, payload, content)
            seen = text  # Another writer may have replaced the value just now. Then the header has changed too.

    def has(self, owner: Owner, key: str, access: Access) -> bool:
        expires, text = self._calls.fields(owner, access.now, b"i:" + key.encode())
        return self._live_header(owner, expires, text, access) is not None

    def _live_header(self, owner: Owner, expires: bytes | None, text: bytes | None, access: Access) -> Header | None:
        header = parse_header(text)
        is_live = self._is_live(owner, expires, access)
        return header if is_live and header and access.is_live_key(header.expires) else None

    def _is_live(self, owner: Owner, expires: bytes | None, access: Access) -> bool:
        expiry = parse_time(expires)
        if not access.is_future(expiry):
            return False
        if access.is_touch_due(expiry):
            self._touch(owner, access)
        return True

    def _touch(self, owner: Owner, access: Access) -> None:
        """Move the expiry. If that fails, a later read tries again."""
        try:
            self._calls.touch(owner, access)
        except StorageBusy:
            pass  # A read does not wait for other writers.
        except StorageError as error:
            logger.warning("A read could not move the expiry of a session or user: %s", error)

    def keys(self, owner: Owner, access: Access, limit: int | None = None, newest_first: bool = False) -> list[str]:
        expires, *headers = self._calls.headers(owner, access.now, limit, newest_first)
        if not self._is_live(owner, expires, access):
            return []
        keys = [key for key, header in headers_in_order(headers) if access.is_live_key(header.expires)]
        return keys[:: -1 if newest_first else 1][:limit]

    def items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        fields, contents = self._calls.snapshot(owner, access.now)
        if not self._is_live(owner, fields.get(b"expires"), access):
            return []
        return [
            (key, value_of(key, header, fields, contents))
            for key, header in all_headers(fields)
            if access.is_live_key(header.expires)
        ]

    def stat(self, owner: Owner, access: Access) -> Stat:
        expires, nbytes, keys, user = self._calls.stat(owner, access.now)
        expiry = parse_time(expires)
        return Stat(expiry if keys > 0 else None, int(nbytes), keys, user) if access.is_future(expiry) else Stat()

    def describe(self, owner: Owner, access: Access) -> list[ValueInfo]:
        expires, *headers = self._calls.headers(owner, access.now, None, newest_first=False)
        if not access.is_future(parse_time(expires)):
            return []
        return [
            ValueInfo(key, header.nbytes, header.expires, header.buffers is not None)
            for key, header in headers_in_order(headers)
            if access.is_live_key(header.expires)
        ]

    def versions(self, owner: Owner, keys: Collection[str] | None, access: Access) -> dict[str, bytes]:
        if keys is not None and not keys:
            return {}
        expires, *answer = self._calls.versions(owner, access.now, list(keys or ()))
        if not access.is_future(parse_time(expires)):
            return {}
        return {key.decode(): version for key, version in zip(answer[::2], answer[1::2], strict=True)}

    # Writing

    def set(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        self._set(owner, [(key, value, key_expires)], access, self._limits)

    def set_all(self, owner: Owner, values: Iterable[tuple[str, Stored]], access: Access) -> None:
        lists = list(batches(((key, value, None) for key, value in values), BATCH_BYTES, BATCH))
        if len(lists) == 1:
            self._set(owner, lists[0], access, self._limits)
        elif lists:
            with self.transaction(owner):
                for entries in lists:
                    self._set(owner, entries, access, self._limits)

    def _set(self, owner: Owner, entries: Sequence[Entry], access: Access, limits: Limits) -> None:
        all_buffers = [buffers for _, (_, buffers), _ in entries if buffers is not None]
        for key, (payload, buffers), _ in entries:
            self._check_bulk(key, max(len(payload), buffers.nbytes if buffers is not None else 0))
        arguments = value_arguments(entries)
        status, *answer = self._calls.with_buffers(scripts.SET, owner, access, all_buffers, *limits, *arguments)
        if status == b"KEYS":
            raise limits.too_many_keys(answer[0].decode())
        if status == b"BYTES":
            raise limits.quota_exceeded(answer[0].decode(), answer[1], answer[2])
        if status == b"GONE":
            raise StorageError(
                f"The storage {self._server.name} failed: it lost the buffers of a large value before they were "
                "stored. Its maxmemory-policy must be noeviction."
            )

    def _check_bulk(self, key: str, nbytes: int) -> None:
        if nbytes > self._server.max_bulk_bytes:
            raise ValueTooLarge(
                f"The value for {key!r} has {nbytes:,} bytes in one piece; the server {self._server.name} accepts "
                f"{self._server.max_bulk_bytes:,}. Store it under several keys, or raise the server's setting "
                "proto-max-bulk-len.",
                key=key,
                limit=self._server.max_bulk_bytes,
            )

    def expire(self, owner: Owner, key: str, key_expires: float | None, access: Access) -> bool:
        return bool(self._calls.use(scripts.EXPIRE, owner, access, key, expiry_argument(key_expires))[1])

    def delete(self, owner: Owner, key: str, access: Access) -> bool:
        return bool(self._calls.use(scripts.DELETE, owner, access, key)[1])

    def clear(self, owner: Owner, access: Access) -> None:
        self._calls.use(scripts.CLEAR, owner, access)

    # Sessions as a whole

    def renew(self, owner: Owner, session: bytes, access: Access, user: bytes | None = None) -> None:
        if user is not None:
            # In a cluster, the index may be on another server, so it cannot be written together with the session.
            self._add_to_index(user, owner.name, access.now)
        self._calls.use(scripts.RENEW, owner, access, session, user or b"")

    def current(self, owner: Owner, access: Access) -> Owner:
        _, session, renewed = self._calls.fields(Owner(owner.name, ANY_SESSION), access.now, b"session", b"renewed")
        if session is None:
            session, renewed = self._calls.remembered(owner.name)
        if session == ENDED:
            raise SessionEnded(parse_time(renewed) or 0.0)
        return owner if session is None else owner._replace(session=session)

    def end(self, owner: Owner, access: Access) -> float:
        return float(self._calls.write(scripts.END, owner, access.now)[1])

    def sessions(self, user: bytes, access: Access) -> list[SessionInfo]:
        index = self._index(user)
        found, stale = [], []
        entries = self._server.execute("ZRANGE", index, 0, -1, "WITHSCORES", repeatable=True)
        for name, score in zip(entries[::2], entries[1::2], strict=True):
            info = self._session(name.decode(), user, access)
            if info is not None:
                found.append(info)
            elif float(score) < access.now - _INDEX_GRACE:
                stale += [name, score]
        if stale:
            self._server.run(scripts.FORGET_SESSIONS, [index], stale, repeatable=True)
        return sorted(found, key=lambda info: info.created_at)

    def _session(self, name: str, user: bytes, access: Access) -> SessionInfo | None:
        """The session of an owner, if it is bound to this user and has not expired."""
        expires, session, of_user, created = self._calls.fields(
            Owner(name, ANY_SESSION), access.now, b"session", b"user", b"created"
        )
        expiry = parse_time(expires)
        if of_user != user or not session or not access.is_future(expiry):
            return None
        nbytes = self.stat(
            Owner(name, ANY_SESSION), access
        ).nbytes  # ANY_SESSION: the id may have changed in the meantime.
        return SessionInfo(Owner(name, session), parse_time(created) or 0.0, expiry, nbytes)

    def _add_to_index(self, user: bytes, name: str, now: float) -> None:
        args = [now, name, self._leases.keep_ended]
        self._server.run(scripts.INDEX_SESSION, [self._index(user)], args, repeatable=True)

    def _index(self, user: bytes) -> str:
        return f"{self._leases.prefix}user:{user.hex()}"

    # Transactions, and the end

    def transaction(self, owner: Owner) -> AbstractContextManager[object]:
        outer = self._leases.current()
        if outer is None:
            return Transaction(self._leases, owner.name).block()
        return outer.savepoint(lambda: outer.join(owner.name))

    def close(self) -> None:
        self._server.close()
