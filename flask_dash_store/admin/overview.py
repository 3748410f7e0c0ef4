"""How much there is now. Counting costs the more the more there is, so what was counted is shown again for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from ..errors import StorageError
from ..extension import OpenedExtension
from ..operations import statistics_of
from ..storage.statistics import Space, Spread, SupportsStatistics, Totals

T = TypeVar("T")

REUSED_FOR = 2.0
SHARE = 20
"""Counting takes at most one part in this many of one processor's time, however many operators look."""


class Overview(NamedTuple):
    """How much there was at a time, in seconds since the epoch.

    :ivar totals: None when the storage could not count
    :ivar problem: why it could not
    """

    at: float
    totals: Totals | None
    space: Space = Space()
    problem: str | None = None


def count_all(extension: OpenedExtension) -> Overview:
    """Count now."""
    at = extension.now()
    try:
        storage = statistics_of(extension)
        return Overview(at, storage.totals(at), storage.space())
    except StorageError as error:
        return Overview(at, None, problem=str(error))


def count_spread(extension: OpenedExtension) -> Spread:
    """How the sessions differ in size, age and expiry, now; all zeros when the storage does not say."""
    storage = extension.storage
    return storage.spread(extension.now()) if isinstance(storage, SupportsStatistics) else Spread()


class Counted(Generic[T]):
    """Something that is counted now and then, by one thread at a time; others are given what was counted before.

    :param count: counts it
    :param is_counted: whether it could be counted; if not, it is counted again soon, however long the failure took
    :ivar took: how many seconds that took; 0 if it failed
    """

    def __init__(self, count: Callable[[OpenedExtension], T], is_counted: Callable[[T], bool] = lambda _: True) -> None:
        self._count = count
        self._is_counted = is_counted
        self._lock = threading.Lock()
        self._of: Any = None
        self._value: T | None = None
        self._fresh_until = 0.0
        self.took = 0.0

    def get(self, extension: OpenedExtension) -> T:
        """It, as it was at most a few seconds ago; where counting takes long, as it was some time ago."""
        value = self._value if self._of is extension.storage else None
        if value is not None and (time.monotonic() < self._fresh_until or self._lock.locked()):
            return value
        with self._lock:
            if self._value is None or self._of is not extension.storage or time.monotonic() >= self._fresh_until:
                began = time.monotonic()
                value = self._count(extension)
                took = time.monotonic() - began
                self.took = took if self._is_counted(value) else 0.0
                self._value, self._of = value, extension.storage
                self._fresh_until = time.monotonic() + max(REUSED_FOR, took, SHARE * self.took)
            return self._value

    def forget(self) -> None:
        """Count again, for something was changed here."""
        self._fresh_until = 0.0
