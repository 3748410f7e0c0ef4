"""How much there was: a few numbers every few minutes, for the plots. They are kept in the store itself.

One worker at a time counts, in a thread of its own, after a request or when the page is looked at. Samples become fewer
as they age: a month of them fits in 30 kB.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import QuotaExceeded, StorageClosed, StorageError
from ..extension import OpenedExtension
from ..operations import statistics_of
from ..owner import SAMPLES_OWNER
from ..storage.statistics import DAY, HOUR, Totals
from .records import change_record, read_record

logger = logging.getLogger("flask_dash_store")

INTERVAL = 300.0
MAX_SHARE = 256

STEPS = ((DAY, INTERVAL), (7 * DAY, HOUR), (31 * DAY, 4 * HOUR))
"""Up to which age one sample is kept for how long a time."""


class Sample(NamedTuple):
    """How much there was at a time, in seconds since the epoch."""

    at: float
    sessions: int
    users: int
    nbytes: int
    keys: int


class Sampler:
    """Takes samples, each :data:`INTERVAL` seconds over all workers."""

    def __init__(self) -> None:
        self._next = 0.0
        self._lock = threading.Lock()

    def sample_soon(self, extension: OpenedExtension) -> None:
        """Take a sample if one is due, without waiting for it. It is asked after each request, so it costs nothing."""
        if self._is_due(extension):
            thread = threading.Thread(
                target=self._sample, args=(extension,), name="flask_dash_store.samples", daemon=True
            )
            # There can be no more threads, or Python is ending. The visitor's request must not fail for it.
            with suppress(RuntimeError):
                thread.start()

    def sample(self, extension: OpenedExtension, totals: Totals | None = None) -> None:
        """Take a sample if one is due.

        :param totals: how much there is, if that has just been counted
        """
        if self._is_due(extension):
            self._sample(extension, totals)

    def _is_due(self, extension: OpenedExtension) -> bool:
        now = extension.now()
        with self._lock:
            # A clock that was stepped back must not keep it from being due for as long as the step.
            is_due = not now < self._next <= now + INTERVAL
            if is_due:
                self._next = now + INTERVAL
        return is_due

    def _sample(self, extension: OpenedExtension, totals: Totals | None = None) -> None:
        try:
            now = extension.now()
            if _is_taken(read_record(extension, SAMPLES_OWNER), now):
                return
            totals = totals or statistics_of(extension).totals(now)
            self._add(extension, Sample(now, totals.sessions, totals.users, totals.nbytes, totals.keys))
        except StorageClosed:
            return
        except StorageError as error:
            logger.warning("What the store holds could not be counted for the admin page: %s", error)

    def _add(self, extension: OpenedExtension, sample: Sample, share: int = 1) -> None:
        """Add a sample to those that there are.

        :param share: one of so many is kept
        """
        try:
            change_record(extension, SAMPLES_OWNER, lambda record: _added((record or [])[::-share][::-1], sample))
        except QuotaExceeded:  # The app lets a visitor have less than a month of samples takes.
            if share < MAX_SHARE:
                self._add(extension, sample, share * 2)


def samples(extension: OpenedExtension) -> list[Sample]:
    """All that there are, oldest first."""
    return [Sample(*each) for each in read_record(extension, SAMPLES_OWNER) or ()]


def _is_taken(record: Any, now: float) -> bool:
    return bool(record) and 0 <= now - record[-1][0] < INTERVAL


def _added(record: list[Any], sample: Sample) -> list[Any]:
    """The samples with one more, if no other worker has just added it, and without those that are too many."""
    return record if _is_taken(record, sample.at) else thinned([*record, list(sample)], sample.at)


def thinned(record: list[Any], now: float) -> list[Any]:
    """The samples that are kept: the first one of each span of time, which is the longer the older they are."""
    kept = dict[tuple[float, int], Any]()
    for each in record:
        age = now - each[0]
        step = next((step for limit, step in STEPS if 0 <= age <= limit), None)
        if step is not None:
            kept.setdefault((step, int(each[0] // step)), each)
    return list(kept.values())
