"""Operations over all owners on the server: export, statistics and maintenance."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

from ...buffers import batches
from ...errors import StorageCorrupt
from ...expiry import Access
from ...owner import SESSION_PREFIX, Owner
from ..base import Dump, Expired, ExpiryLimit, Limits, Removed, Storage, SupportsExport, Value
from ..name_search import name_filter
from ..statistics import (
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
from . import scripts
from .owner_record import ANY_SESSION, Calls, Entry, all_headers, parse_time, problems, session_argument, value_of
from .server import Server
from .transaction import Leases

BATCH, BATCH_BYTES = 1000, 32 * 2**20
_NO_LIMITS = Limits(2**62, 2**62)
_SESSION_SUFFIX = ":session"


class AllOwners(Storage, SupportsExport, SupportsStatistics):
    """The part of the storage that requests do not use."""

    _server: Server
    _leases: Leases
    _calls: Calls

    @abstractmethod
    def _set(self, owner: Owner, entries: Sequence[Entry], access: Access, limits: Limits) -> None:
        """Store values: all of them, or none if an error is raised."""

    @abstractmethod
    def _add_to_index(self, user: bytes, name: str, now: float) -> None:
        """Add an owner to the index of a user's sessions."""

    def owners(self, prefix: str, access: Access) -> list[str]:
        found = {name for name, expiry in self._expiries(prefix) if access.is_future(expiry)}
        return sorted(name for name in found if self.stat(Owner(name, ANY_SESSION), access).keys)

    # Copying

    def all_owners(self) -> Iterator[str]:
        for names in self._names():
            yield from names

    def _names(self) -> Iterator[list[str]]:
        """The names of all owners, each once, a thousand at a time."""
        seen: set[str] = set()
        for names in self._scan("", "", _SESSION_SUFFIX):
            found = set(names) - seen
            seen |= found
            yield list(found)

    def dump(self, name: str) -> Dump | None:
        fields, contents = self._calls.snapshot(Owner(name, ANY_SESSION), 0.0)
        session, renewed, user = (fields.get(field) for field in (b"session", b"renewed", b"user"))
        if session is None:
            session, renewed = self._calls.remembered(name)
        if not fields and session is None:
            return None
        values: list[Value] = []
        damaged: list[str] = []
        for key, header in all_headers(fields):
            try:
                values.append((key, value_of(key, header, fields, contents), header.expires))
            except StorageCorrupt:
                damaged.append(key)
        return Dump(
            parse_time(fields.get(b"expires")) or 0.0,
            None if session == session_argument(Owner(name)) else session,
            parse_time(renewed),
            values,
            tuple(damaged),
            user,
            parse_time(fields.get(b"created")) or 0.0,
        )

    def load(self, name: str, dump: Dump) -> None:
        owner = Owner(name, ANY_SESSION)
        session = session_argument(Owner(name, dump.session))
        renewed = "" if dump.renewed_at is None else repr(dump.renewed_at)
        with self.transaction(owner):
            known = repr(dump.expires), session, renewed, dump.user or b"", repr(dump.created_at)
            self._calls.write(scripts.LOAD, owner, time.time(), *known)
            # At time -1, expired values are loaded, too.
            access = Access(-1.0, dump.expires, float("inf"))
            for entries in batches(dump.values, BATCH_BYTES, BATCH):
                self._set(owner, entries, access, _NO_LIMITS)
        if dump.user is not None and dump.session:
            self._add_to_index(dump.user, name, time.time())

    def problems(self) -> Iterator[str]:
        for name in self.all_owners():
            try:
                fields, contents = self._calls.snapshot(Owner(name, ANY_SESSION), 0.0)
            except StorageCorrupt as error:
                yield f"{name}: {error}"
            else:
                missing = {each for each, content in contents.items() if content is None}
                # The owner may have been deleted since it was found.
                yield from (f"{name}: {problem}" for problem in problems(fields, missing) if fields)

    # Statistics

    def totals(self, now: float, largest: int = 0) -> Totals:
        return totals_of(self._infos(name_filter("", "")), now, largest)

    def find_owners(
        self, prefix: str, order: Order, limit: int, now: float, *, offset: int = 0, containing: str = ""
    ) -> OwnerPage:
        return page_of(self._infos(name_filter(prefix, containing)), order, limit, offset, now)

    def spread(self, now: float) -> Spread:
        return spread_of(self._infos(name_filter(SESSION_PREFIX, "")), now)

    def _infos(self, is_wanted: Callable[[str], bool]) -> Iterator[OwnerInfo]:
        """What is counted of owners. The server is asked for a thousand at a time, and answers others between.

        :param is_wanted: by its name
        """
        for found in self._names():
            names = list(filter(is_wanted, found))
            commands = [("HMGET", self._leases.record(name), "created", "expires", "bytes", "keys") for name in names]
            for name, (created, expires, nbytes, keys) in zip(names, self._server.execute_each(commands), strict=True):
                counts = int(nbytes or 0), int(keys or 0)
                yield OwnerInfo(name, parse_time(created) or 0.0, parse_time(expires), *counts)

    def space(self) -> Space:
        """All that the servers keep in memory, for any app, and how much more they may keep."""
        memories = self._server.memory()
        limits = [memory["maxmemory"] for memory in memories]
        used = sum(memory["used_memory"] for memory in memories)
        return Space(used, max(0, sum(limits) - used) if all(limits) else None)

    # Maintenance

    def maintain(
        self,
        now: float,
        ended_before: float,
        expiry_limit: ExpiryLimit | None = None,
        wait: bool = False,
        expired: Expired | None = None,  # noqa: ARG002  # The server removes most values, and does not report them.
    ) -> Removed:
        if expiry_limit is not None:
            for name, expiry in self._expiries(expiry_limit.prefix):
                if expiry is not None and expiry_limit.latest < expiry < float("inf"):
                    owner = Owner(name, ANY_SESSION)
                    self._calls.write(scripts.LIMIT_EXPIRY, owner, now, repr(expiry_limit.latest), joins=False)
        return self._purge(now, ended_before) if wait else Removed()

    def _purge(self, now: float, ended_before: float) -> Removed:
        owners = keys = 0
        has_more = False
        for name in self.all_owners():
            owner = Owner(name, ANY_SESSION)
            answer = self._calls.write(scripts.PURGE, owner, now, "0.0", "inf", repr(ended_before), joins=False)
            owners, keys, has_more = owners + answer[1], keys + answer[2], has_more or bool(answer[3])
        return Removed(owners, keys, has_more)

    def _expiries(self, prefix: str) -> Iterator[tuple[str, float | None]]:
        """The owners with values whose names have this prefix, with their expiries. Some may be given several times."""
        for names in self._scan(prefix, ""):
            commands = [("HGET", self._leases.record(name), "expires") for name in names]
            yield from zip(names, map(parse_time, self._server.execute_each(commands)), strict=True)

    def _scan(self, prefix: str, *suffixes: str) -> Iterator[list[str]]:
        """The owners with this prefix that have a key with one of these suffixes. Some may be given several times."""
        start = f"{self._leases.prefix}{{"
        for keys in self._server.scan(start + re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"):
            parts = [key[len(start) :].rpartition("}") for key in keys]
            yield [name for name, _, suffix in parts if suffix in suffixes]
