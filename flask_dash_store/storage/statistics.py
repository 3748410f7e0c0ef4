"""Statistics for operators: how much a storage keeps in total, and which owners have the most.

A storage without total counts scans the counts of each owner. No value is ever read.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from ..owner import SESSION_PREFIX, USER_PREFIX

Order = Literal["newest", "oldest", "largest", "expiring"]

HOUR, DAY = 3600.0, 86400.0

SIZES = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
"""Bytes that divide the sessions by size, as :class:`Spread` counts them."""

TIMES = (HOUR, 6 * HOUR, DAY, 7 * DAY, 31 * DAY)
"""Seconds that divide them by age, and by the time that is left."""


class OwnerInfo(NamedTuple):
    """The counts of an owner, including expired keys that are not removed yet.

    :ivar created_at: when its first value was stored, in seconds since the epoch
    :ivar expires: when it expires, in seconds since the epoch; None if only its ended ids are remembered
    :ivar nbytes: bytes of its keys and values
    :ivar keys: how many keys it has
    """

    name: str
    created_at: float
    expires: float | None
    nbytes: int
    keys: int

    def is_live(self, now: float) -> bool:
        """Whether it counts: a session that has not expired, with values or without; or a user with values."""
        return (self.expires or 0.0) > now and (self.keys > 0 or not self.name.startswith(USER_PREFIX))


class OwnerPage(NamedTuple):
    """A page of the owners that were found.

    :ivar owners: the owners on this page
    :ivar total: how many owners there are on all pages
    """

    owners: list[OwnerInfo]
    total: int


class Totals(NamedTuple):
    """How much a storage keeps.

    :ivar sessions: sessions that have not expired
    :ivar users: user ids with values
    :ivar nbytes: bytes of the keys and values of sessions and users that have not expired
    :ivar keys: how many keys they have
    :ivar oldest: when the oldest of them began, in seconds since the epoch; None if there are none
    :ivar began_last_hour: sessions that began within the last hour
    :ivar began_last_day: sessions that began within the last day
    :ivar expired: expired owners that maintenance has not removed yet
    :ivar ended: sessions of which only the ended ids are remembered, so that they stay dead
    :ivar largest: the largest sessions and users that have not expired, as many as were asked for
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


class Spread(NamedTuple):
    """How many sessions are how large and how old, and how much time they have left.

    Each tuple counts those below the first limit, those from there to the second, and so on; the last ones are above
    all limits.

    :ivar sizes: by bytes, divided at :data:`SIZES`
    :ivar ages: by seconds since they began, divided at :data:`TIMES`
    :ivar left: by seconds until they expire, divided there too
    """

    sizes: tuple[int, ...] = (0,) * (len(SIZES) + 1)
    ages: tuple[int, ...] = (0,) * (len(TIMES) + 1)
    left: tuple[int, ...] = (0,) * (len(TIMES) + 1)


class Space(NamedTuple):
    """How full the storage is, in bytes. None if not known, or not limited.

    :ivar used: the size of the database file or the tables, without the files of large values; for a Redis server,
        all of its memory
    :ivar free: how much space is left
    :ivar log: the part of ``used`` that a checkpoint empties: SQLite's WAL
    """

    used: int | None = None
    free: int | None = None
    log: int | None = None


class SupportsStatistics(ABC):
    """A storage with statistics. Computing them blocks no writer."""

    @abstractmethod
    def totals(self, now: float, largest: int = 0) -> Totals:
        """How much the storage keeps.

        :param now: the time, in seconds since the epoch
        :param largest: how many of the largest owners to list
        """

    @abstractmethod
    def find_owners(
        self, prefix: str, order: Order, limit: int, now: float, *, offset: int = 0, containing: str = ""
    ) -> OwnerPage:
        """A page of the live owners whose names have the prefix and contain a text.

        Owners that are equal in the order are sorted by name, so that each is on exactly one page.

        :param limit: how many owners a page has at most
        :param now: the time, in seconds since the epoch
        :param offset: how many owners to skip before the page
        :param containing: a text, which is searched as :mod:`.name_search` describes: in user ids as the app knows
            them, without regard to the case of ASCII letters
        """

    @abstractmethod
    def spread(self, now: float) -> Spread:
        """How the sessions that have not expired differ, from what is counted for each. No value is read.

        :param now: in seconds since the epoch
        """

    @abstractmethod
    def space(self) -> Space:
        """How full it is. Health checks call this often, so the cost must not depend on how many values there are."""


_SORT_KEYS: dict[Order, Callable[[OwnerInfo], tuple[float, str]]] = {
    "newest": lambda info: (-info.created_at, info.name),
    "oldest": lambda info: (info.created_at, info.name),
    "largest": lambda info: (-info.nbytes, info.name),
    "expiring": lambda info: (info.expires or 0.0, info.name),
}


def totals_of(infos: Iterable[OwnerInfo], now: float, largest: int) -> Totals:
    """:meth:`SupportsStatistics.totals` of these owners."""
    sessions = users = nbytes = keys = hour = day = expired = ended = 0
    oldest = math.inf

    def counted() -> Iterator[OwnerInfo]:
        nonlocal sessions, users, nbytes, keys, oldest, hour, day, expired, ended
        for info in infos:
            if info.is_live(now):
                is_session, is_user = info.name.startswith(SESSION_PREFIX), info.name.startswith(USER_PREFIX)
                if not (is_session or is_user):
                    continue
                sessions += is_session
                users += is_user
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


def spread_of(infos: Iterable[OwnerInfo], now: float) -> Spread:
    """What :meth:`SupportsStatistics.spread` is of these owners."""
    sizes, ages, left = (list[int](counts) for counts in Spread())
    for info in infos:
        if info.name.startswith(SESSION_PREFIX) and info.is_live(now):
            sizes[bisect_right(SIZES, info.nbytes)] += 1
            ages[bisect_right(TIMES, now - info.created_at)] += 1
            left[bisect_right(TIMES, (info.expires or 0.0) - now)] += 1
    return Spread(tuple(sizes), tuple(ages), tuple(left))


def columns_of_spread(nbytes: str, created: str, expires: str, now: str) -> list[str]:
    """Conditions in SQL, of each of which a query for :func:`spread_of_counts` counts the rows.

    :param nbytes: the column, and so are ``created`` and ``expires``; ``now`` is a parameter
    """
    return [
        *(f"{nbytes} < {limit:.0f}" for limit in SIZES),
        *(f"{created} > {now} - {limit:.0f}" for limit in TIMES),
        *(f"{expires} < {now} + {limit:.0f}" for limit in TIMES),
    ]


def spread_of_counts(total: int, *below: int) -> Spread:
    """A spread from how many rows there are in all, and how many meet each of the :func:`columns_of_spread`."""
    first, second = len(SIZES), len(SIZES) + len(TIMES)
    return Spread(*(_divided(counts, total) for counts in (below[:first], below[first:second], below[second:])))


def _divided(below: Sequence[int], total: int) -> tuple[int, ...]:
    return tuple(count - before for before, count in pairwise((0, *below, total)))


def page_of(infos: Iterable[OwnerInfo], order: Order, limit: int, offset: int, now: float) -> OwnerPage:
    """A page of those of these owners that are there. Of all others, no more are kept than come before it."""
    total = 0

    def counted() -> Iterator[OwnerInfo]:
        nonlocal total
        for info in infos:
            if info.is_live(now):
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
