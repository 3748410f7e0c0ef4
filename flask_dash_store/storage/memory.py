"""Values in the memory of one process: the shortest storage that keeps the contract, as a model for others.

The entry of an owner is never changed, only replaced by a changed copy. So readers need no lock. A transaction is a
dict of its own over that of the storage: a commit copies it down, a rollback drops it, and a savepoint is another dict
on top. A write copies the owner's dict of keys, so it takes longer with more keys. A read and a ``stat`` do not.
"""

from __future__ import annotations

import math
import os
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from ..buffers import Buffers, Stored, size_of
from ..errors import ConfigurationError, SessionEnded, StorageBusy, StorageClosed
from ..expiry import Access
from ..owner import Owner
from . import base
from .base import Dump, Expired, ExpiryLimit, KeyExpiry, Limits, Removed, SessionInfo, Stat, ValueInfo
from .lock import WriteLock
from .name_search import name_filter
from .statistics import (
    Order,
    OwnerInfo,
    OwnerPage,
    Space,
    Spread,
    SupportsStatistics,
    Totals,
    page_of,
    spread_of,
    totals_of,
)
from .transaction import Transaction, current_transaction, joined

NAME = "storage memory://"
OWNERS_PER_CALL = 1000  # How many owners one call of maintain() looks at.


def open_url(url: str, options: base.StorageOptions) -> MemoryStorage:
    """A new storage, for each call."""
    if url != "memory://":
        raise ConfigurationError(f"USER_STORE_URL (url=) is {url!r}; it must be just memory://, without a name.")
    return MemoryStorage(options.limits, options.timeout)


class _Kept(NamedTuple):
    """A value, as it is kept under a key."""

    stored: Stored
    expires: float | None
    nbytes: int


@dataclass
class _Entry:
    """Everything that is kept of an owner.

    :ivar nbytes: bytes of its keys and values
    :ivar next_key_expires: no key with an expiry of its own expires earlier
    """

    session: bytes | None
    expires: float
    created_at: float
    renewed_at: float | None = None
    user: bytes | None = None
    values: dict[str, _Kept] = field(default_factory=dict)
    nbytes: int = 0
    next_key_expires: float = math.inf

    def put(self, key: str, kept: _Kept) -> None:
        """Keep a value, and replace the one that is there, if any."""
        replaced = self.values.get(key)
        self.nbytes += kept.nbytes - (replaced.nbytes if replaced else 0)
        self.next_key_expires = min(self.next_key_expires, math.inf if kept.expires is None else kept.expires)
        self.values[key] = kept

    def with_values(self, values: Iterable[tuple[str, _Kept]]) -> _Entry:
        """The same entry with other values."""
        entry = replace(self, values={}, nbytes=0, next_key_expires=math.inf)
        for key, kept in values:
            entry.put(key, kept)
        return entry

    def at(self, access: Access) -> _Entry:
        """The same entry without what has expired. If the owner has expired, only its session ids are kept."""
        if not access.is_future(self.expires):
            return _Entry(self.session, access.expires, access.now, self.renewed_at)
        if access.now < self.next_key_expires:
            return self
        return self.with_values((k, kept) for k, kept in self.values.items() if access.is_live_key(kept.expires))

    @property
    def replaced_at(self) -> float:
        """When the session got its current id, or ended."""
        return self.created_at if self.renewed_at is None else self.renewed_at


Entries = MutableMapping[str, _Entry | None]
"""Entries by the owners' names; None for an owner that a transaction has removed."""


class MemoryStorage(base.Storage, base.SupportsExport, SupportsStatistics):
    """Values that are lost when the process ends, and that no other process can read.

    :param limits: how much one owner may store
    :param timeout: seconds that a call waits for other writers
    """

    def __init__(self, limits: Limits = base.DEFAULT_LIMITS, timeout: float = base.DEFAULT_TIMEOUT) -> None:
        self.entries: dict[str, _Entry | None] = {}
        self.writer = WriteLock(NAME, timeout)
        self._limits = limits
        self._timeout = timeout
        self._process = os.getpid()
        self._is_closed = False
        self._to_maintain: list[str] = []

    # Reading

    def get(self, owner: Owner, key: str, access: Access) -> Stored | None:
        kept = self._read(owner, access).values.get(key)
        return None if kept is None else _copy(kept.stored)

    def has(self, owner: Owner, key: str, access: Access) -> bool:
        return key in self._read(owner, access).values

    def keys(self, owner: Owner, access: Access, limit: int | None = None, newest_first: bool = False) -> list[str]:
        values = self._read(owner, access).values
        return list(islice(reversed(values) if newest_first else iter(values), limit))

    def items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        return [(key, _copy(kept.stored)) for key, kept in self._read(owner, access).values.items()]

    def stat(self, owner: Owner, access: Access) -> Stat:
        entry = self._read(owner, access._replace(touch_threshold=math.inf))
        expires = entry.expires if entry.values else None
        return Stat(expires, entry.nbytes, len(entry.values), entry.user)

    def describe(self, owner: Owner, access: Access) -> list[ValueInfo]:
        values = self._read(owner, access._replace(touch_threshold=math.inf)).values
        return [ValueInfo(key, kept.nbytes, kept.expires, kept.stored[1] is not None) for key, kept in values.items()]

    def versions(self, owner: Owner, keys: Collection[str] | None, access: Access) -> dict[str, bytes]:
        values = self._read(owner, access._replace(touch_threshold=math.inf)).values
        names = values.keys() if keys is None else keys
        return {key: values[key].stored[0][-base.VERSION_BYTES :] for key in names if key in values}

    # Writing

    def set(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        with self._write(owner, access) as entry:
            replaced = entry.values.get(key)
            nbytes = _size(key, value)
            growth = nbytes - (replaced.nbytes if replaced else 0)
            if growth > 0 and entry.nbytes + growth > self._limits.max_bytes:
                raise self._limits.quota_exceeded(key, growth, entry.nbytes)
            if replaced is None and len(entry.values) >= self._limits.max_keys:
                raise self._limits.too_many_keys(key, len(entry.values))
            if key_expires == "keep":
                key_expires = replaced.expires if replaced else None
            entry.put(key, _Kept(_copy(value), key_expires, nbytes))

    def expire(self, owner: Owner, key: str, key_expires: float | None, access: Access) -> bool:
        with self._write(owner, access) as entry:
            if key in entry.values:
                entry.put(key, entry.values[key]._replace(expires=key_expires))
            return key in entry.values

    def delete(self, owner: Owner, key: str, access: Access) -> bool:
        with self._write(owner, access) as entry:
            deleted = entry.values.pop(key, None)
            entry.nbytes -= deleted.nbytes if deleted else 0
            return deleted is not None

    def clear(self, owner: Owner, access: Access) -> None:
        with self._write(owner, access) as entry:
            entry.values, entry.nbytes = {}, 0

    # Sessions as a whole

    def renew(self, owner: Owner, session: bytes, access: Access, user: bytes | None = None) -> None:
        with self._write(owner, access) as entry:
            entry.session, entry.renewed_at, entry.expires = session, access.now, access.expires
            entry.user = entry.user if user is None else user

    def current(self, owner: Owner, access: Access) -> Owner:  # noqa: ARG002  # Known ids do not expire.
        with self._seen() as entries:
            entry = entries.get(owner.name)
        if entry is None:
            return owner
        if entry.session == base.ENDED:
            raise SessionEnded(entry.replaced_at)
        return owner._replace(session=entry.session)

    def end(self, owner: Owner, access: Access) -> float:
        with self._begin() as transaction:
            entry = transaction.entries.get(owner.name)
            if entry is not None and entry.session != owner.session:
                return entry.replaced_at
            transaction.entries[owner.name] = _Entry(base.ENDED, access.now, access.now, renewed_at=access.now)
            return access.now

    def sessions(self, user: bytes, access: Access) -> list[SessionInfo]:
        sessions = [
            SessionInfo(Owner(name, entry.session), entry.created_at, entry.expires, entry.at(access).nbytes)
            for name, entry in self._all()
            if entry.user == user and access.is_future(entry.expires)
        ]
        return sorted(sessions, key=lambda session: session.created_at)

    def owners(self, prefix: str, access: Access) -> list[str]:
        return sorted(name for name, entry in self._all() if name.startswith(prefix) and entry.at(access).values)

    # Maintenance, transactions, and the end

    def maintain(
        self,
        now: float,
        ended_before: float,
        expiry_limit: ExpiryLimit | None = None,
        wait: bool = False,
        expired: Expired | None = None,
    ) -> Removed:
        owners = keys = 0
        removed: list[tuple[str, list[str]]] = []
        with self._begin(self._timeout if wait else 0) as transaction:
            names = self._to_maintain = self._to_maintain or list(transaction.entries)
            for name in names[-OWNERS_PER_CALL:]:
                entry = transaction.entries.get(name)
                if entry is None:
                    continue
                if expiry_limit and name.startswith(expiry_limit.prefix) and entry.expires < math.inf:
                    entry = replace(entry, expires=min(entry.expires, expiry_limit.latest))
                live = entry.at(Access(now, entry.expires, math.inf))
                transaction.entries[name] = live
                if entry.expires <= now and entry.values:
                    removed.append((name, list(entry.values)))
                if entry.expires > now:
                    keys += len(entry.values) - len(live.values)
                elif entry.renewed_at is None or entry.renewed_at < ended_before:
                    owners += 1
                    transaction.entries[name] = None
            del names[-OWNERS_PER_CALL:]
        if expired is not None:
            for each in removed:
                expired(*each)
        return Removed(owners, keys, has_more=bool(names))

    def transaction(self, owner: Owner) -> AbstractContextManager[object]:  # noqa: ARG002  # It locks out all writers.
        return self._begin()

    def close(self) -> None:
        self._is_closed = True
        self.entries = {}

    # Copying

    def all_owners(self) -> Iterator[str]:
        return iter([name for name, _ in self._all()])

    def dump(self, name: str) -> Dump | None:
        entry = dict(self._all()).get(name)
        if entry is None:
            return None
        values = [(key, _copy(kept.stored), kept.expires) for key, kept in entry.values.items()]
        return Dump(entry.expires, entry.session, entry.renewed_at, values, (), entry.user, entry.created_at)

    def load(self, name: str, dump: Dump) -> None:
        entry = _Entry(dump.session, dump.expires, dump.created_at, dump.renewed_at, dump.user)
        for key, stored, expires in dump.values:
            entry.put(key, _Kept(_copy(stored), expires, _size(key, stored)))
        with self._begin() as transaction:
            transaction.entries[name] = entry

    def problems(self) -> Iterator[str]:
        return iter(())

    # Statistics

    def totals(self, now: float, largest: int = 0) -> Totals:
        return totals_of(self._infos(now), now, largest)

    def find_owners(
        self, prefix: str, order: Order, limit: int, now: float, *, offset: int = 0, containing: str = ""
    ) -> OwnerPage:
        is_wanted = name_filter(prefix, containing)
        return page_of((info for info in self._infos(now) if is_wanted(info.name)), order, limit, offset, now)

    def spread(self, now: float) -> Spread:
        return spread_of(self._infos(now), now)

    def space(self) -> Space:
        return Space()

    def _infos(self, now: float) -> Iterator[OwnerInfo]:
        for name, entry in self._all():
            is_emptied = entry.expires <= now and entry.renewed_at is not None and not entry.values
            expires = None if is_emptied or entry.session == base.ENDED else entry.expires
            yield OwnerInfo(name, entry.created_at, expires, entry.nbytes, len(entry.values))

    # How each call reads and writes entries

    def _read(self, owner: Owner, access: Access) -> _Entry:
        """The entry of an owner, for a read."""
        with self._seen() as entries:
            entry = _find(entries, owner, access)
        if access.is_touch_due(entry.expires):
            with suppress(StorageBusy), self._begin(timeout=0) as transaction:
                entry = _find(transaction.entries, owner, access)
                transaction.entries[owner.name] = replace(entry, expires=access.expires)
        return entry

    @contextmanager
    def _write(self, owner: Owner, access: Access) -> Iterator[_Entry]:
        """A copy of the entry of an owner, for the block to change. It replaces the entry unless the block raises."""
        with self._begin() as transaction:
            found = _find(transaction.entries, owner, access)
            entry = replace(found, values=dict(found.values))
            yield entry
            if access.is_touch_due(entry.expires):
                entry.expires = access.expires
            if owner.name in transaction.entries or entry.values or entry.renewed_at is not None:
                transaction.entries[owner.name] = entry

    def _all(self) -> list[tuple[str, _Entry]]:
        with self._seen() as entries:
            return [(name, entry) for name, entry in list(entries.items()) if entry is not None]

    @contextmanager
    def _seen(self) -> Iterator[Entries]:
        """The entries that the current context sees, including writes of its own transaction."""
        transaction = current_transaction(self, _MemoryTransaction)
        if transaction is None:
            self.check_open()
            yield self.entries
        else:
            with transaction.call():
                self.check_open()
                yield transaction.entries

    def _begin(self, timeout: float | None = None) -> AbstractContextManager[_MemoryTransaction]:
        """A transaction, or a savepoint in the current context's transaction."""
        self.check_open()
        seconds = self._timeout if timeout is None else timeout
        return joined(self, _MemoryTransaction, lambda: _MemoryTransaction(self, seconds))

    def check_open(self) -> None:
        """:raises StorageClosed: if it has been closed, or belongs to another process"""
        if self._process != os.getpid():
            raise StorageClosed(
                f"The {NAME} is in the memory of another process, from which this one was forked. To share values "
                "between processes, use a file: USER_STORE_URL = 'sqlite:///name' (url=)."
            )
        if self._is_closed:
            raise StorageClosed(f"The {NAME} has been closed.")


class _MemoryTransaction(Transaction):
    """Uncommitted writes, over the entries of the storage. There is one at a time."""

    def __init__(self, storage: MemoryStorage, timeout: float) -> None:
        super().__init__(storage, NAME, timeout)
        self._memory = storage

    def _begin(self) -> None:
        self._memory.writer.acquire(self._timeout)
        self._memory.writer.hold(self)
        self.entries = ChainMap[str, _Entry | None]({}, self._memory.entries)

    def _commit(self) -> None:
        self._memory.check_open()
        for name, entry in self.entries.maps[0].items():
            self._memory.entries[name] = entry
            if entry is None:
                del self._memory.entries[name]

    def _roll_back(self, error: BaseException) -> None:
        """Do nothing: the entries of the storage have not been changed."""

    def _release(self) -> None:
        self._memory.writer.release(self)

    def _set_savepoint(self, number: int) -> None:  # noqa: ARG002
        self.entries = self.entries.new_child()

    def _release_savepoint(self, number: int) -> None:  # noqa: ARG002
        written = self.entries.maps[0]
        self.entries = self.entries.parents
        self.entries.update(written)

    def _roll_back_to_savepoint(self, number: int) -> None:  # noqa: ARG002
        self.entries = self.entries.parents


def _find(entries: Entries, owner: Owner, access: Access) -> _Entry:
    """The entry of an owner, without what has expired; an empty entry if there is none.

    :raises SessionEnded: if the session has ended, or has another id
    """
    entry = entries.get(owner.name) or _Entry(owner.session, access.expires, access.now)
    if entry.session != owner.session:
        raise SessionEnded(entry.replaced_at)
    return entry.at(access)


def _copy(stored: Stored) -> Stored:
    payload, buffers = stored
    return payload, buffers and Buffers(buffers.name, [memoryview(bytearray(buffers.joined()))])


def _size(key: str, value: Stored) -> int:
    return len(key.encode()) + size_of(value)
