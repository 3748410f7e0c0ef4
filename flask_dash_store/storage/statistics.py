"""What an operator asks of a storage: how much there is of all owners together, and which of them have the most.

A storage that keeps no counts over all owners goes through what it counts for each; values are never read.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nsmallest
from typing import Any, Literal, NamedTuple

from ..owner import SESSION_PREFIX, USER_PREFIX

Order = Literal["newest", "oldest", "largest", "expiring"]

HOUR, DAY = 3600.0, 86400.0


class OwnerInfo(NamedTuple):
    """What is counted of an owner, with what has expired by itself and is not removed yet.

    :ivar created_at: when its first value was stored, in seconds since the epoch
    :ivar expires: when it expires, in seconds since the epoch; None for one of which only the ended ids are remembered
    :ivar nbytes: bytes of its keys and values
    :ivar keys: how many keys it has
    """

    name: str
    created_at: float
    expires: float | None
    nbytes: int
    keys: int

    def is_there(self, now: float) -> bool:
        """Whether it counts: a session until it expires, with values or without; a user that has values."""
        return (self.expires or 0.0) > now and (self.keys > 0 or not self.name.startswith(USER_PREFIX))


class OwnerPage(NamedTuple):
    """Some of the owners that were looked for.

    :ivar owners: those of this page
    :ivar total: how many there are on all pages
    """

    owners: list[OwnerInfo]
    total: int


class Totals(NamedTuple):
    """How much a storage keeps.

    :ivar sessions: that have not expired
    :ivar users: that have values of their own
    :ivar nbytes: bytes of the keys and values of all that have not expired
    :ivar keys: how many keys they have
    :ivar oldest: when the first of these began, in seconds since the epoch; None where there are none
    :ivar began_last_hour: how many of the sessions have begun within the hour before
    :ivar began_last_day: the same within a day
    :ivar expired: owners that have expired, which maintenance has not removed yet
    :ivar ended: sessions of which only the ended ids are remembered, so that these stay dead
    :ivar largest: of the owners that have not expired, as many as were asked for
    """

    sessions: int = 0
    users: int = 0
    nbytes: int = 0
    keys: int = 0
    oldest: float | None = None
    began_last_hour: int = 0
    began_last_day: int = 0
    expired: int = 0
    ended: int = 0
    largest: tuple[OwnerInfo, ...] = ()


class Space(NamedTuple):
    """How full it is where a storage keeps its values, in bytes; None for what is not known, or has no limit.

    :ivar used: what the storage's files or tables take; of a Redis server, all that it keeps in memory
    :ivar free: how much more there is room for
    :ivar log: how much of ``used`` is a log that a checkpoint empties: SQLite's WAL
    """

    used: int | None = None
    free: int | None = None
    log: int | None = None


class SupportsStatistics(ABC):
    """A storage that can say how much it keeps. It holds up no writer meanwhile."""

    @abstractmethod
    def totals(self, now: float, largest: int = 0) -> Totals:
        """How much there is.

        :param now: in seconds since the epoch
        :param largest: how many of the largest owners to name
        """

    @abstractmethod
    def find_owners(
        self, prefix: str, order: Order, limit: int, now: float, *, offset: int = 0, containing: str = ""
    ) -> OwnerPage:
        """A page of the owners that are there, whose names begin with the prefix, and in which a text is found.

        Among those that are equal in an order, the names decide, so that pages hold each once.

        :param limit: how many a page has at most
        :param now: in seconds since the epoch
        :param offset: how many come before the page
        :param containing: a text, of which :mod:`.name_search` says in which names it is found: in a user id as the app
            knows it, without regard to the case of ASCII letters
        """

    @abstractmethod
    def space(self) -> Space:
        """How full it is. It is asked often, so it costs as much of many values as of few."""


_SORT_KEYS: dict[Order, Callable[[OwnerInfo], tuple[float, str]]] = {
    "newest": lambda info: (-info.created_at, info.name),
    "oldest": lambda info: (info.created_at, info.name),
    "largest": lambda info: (-info.nbytes, info.name),
    "expiring": lambda info: (info.expires or 0.0, info.name),
}


def totals_of(infos: Iterable[OwnerInfo], now: float, largest: int) -> Totals:
    """What :meth:`SupportsStatistics.totals` is of these owners."""
    sessions = users = nbytes = keys = hour = day = expired = ended = 0
    oldest = math.inf

    def counted() -> Iterator[OwnerInfo]:
        nonlocal sessions, users, nbytes, keys, oldest, hour, day, expired, ended
        for info in infos:
            if info.is_there(now):
                is_session = info.name.startswith(SESSION_PREFIX)
                sessions += is_session
                users += info.name.startswith(USER_PREFIX)
                nbytes, keys = nbytes + info.nbytes, keys + info.keys
                oldest = min(oldest, info.created_at)
                hour += is_session and info.created_at > now - HOUR
                day += is_session and info.created_at > now - DAY
                yield info
            elif info.expires is None:
                ended += 1
            elif info.expires <= now:
                expired += 1

    first = _first(counted(), "largest", largest)
    since = oldest if oldest < math.inf else None
    return Totals(sessions, users, nbytes, keys, since, hour, day, expired, ended, tuple(first))


def page_of(infos: Iterable[OwnerInfo], order: Order, limit: int, offset: int, now: float) -> OwnerPage:
    """A page of those of these owners that are there. Of all others, no more are kept than come before it."""
    total = 0

    def counted() -> Iterator[OwnerInfo]:
        nonlocal total
        for info in infos:
            if info.is_there(now):
                total += 1
                yield info

    first = _first(counted(), order, offset + limit)
    return OwnerPage(first[offset:], total)


def _first(infos: Iterable[OwnerInfo], order: Order, number: int) -> list[OwnerInfo]:
    """The first ones in an order. All are gone through, even for none, which :func:`heapq.nsmallest` would not do."""
    return nsmallest(max(number, 1), infos, key=_SORT_KEYS[order])[:number]


def page_of_rows(rows: Sequence[Sequence[Any]]) -> OwnerPage:
    """A page, of the rows of a query: each begins with the total, and one has nothing else if the page is empty."""
    return OwnerPage([OwnerInfo(*row[1:]) for row in rows if row[1] is not None], rows[0][0])
