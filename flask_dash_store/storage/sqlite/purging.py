"""Removing what has expired, and giving its space back, in transactions so short that no request waits for them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from . import schema
from .buffers import Buffers
from .database import Database
from .transaction import Row, Transaction
from .waiting import PAUSE

PURGED_TOGETHER = 16
VACUUM_PAGES = 32
# A large value's file that no row names was left by a crash, unless its writer has still to commit the row.
ORPHAN_AGE = 60 * 60.0


def forget_files(transaction: Transaction, buffers: Buffers, rows: Iterable[Row]) -> None:
    """Have the files of deleted or replaced rows removed once that is committed."""
    files = [file for (file,) in rows if file is not None]
    if files:
        transaction.then(if_committed=partial(buffers.remove, files))


class Purging:
    """What :meth:`Storage.purge` and :meth:`Storage.purge_keys` promise, on SQLite."""

    def __init__(self, database: Database, buffers: Buffers) -> None:
        self._database = database
        self._buffers = buffers
        self._orphans_purged_at = 0.0

    def owners(self, now: float, ended_before: float, limit: int, wait: bool) -> int:
        past = (-max(ended_before, 0.0), now)
        removed = self._few_at_a_time(partial(self._purge_owners, past), limit, wait)
        if wait and removed == limit:
            return removed  # There may be more. What follows is done once, when there is not.
        self._empty_ended(limit, wait)
        self._vacuum(wait)
        if wait or not now - ORPHAN_AGE < self._orphans_purged_at <= now:
            self._orphans_purged_at = now
            self._purge_orphans(now - ORPHAN_AGE)
        if wait:
            self._database.checkpoint(truncate=True)  # What was deleted is still to be read in the WAL.
        return removed

    def keys(self, now: float, limit: int, wait: bool) -> int:
        return self._few_at_a_time(partial(self._purge_keys, now), limit, wait)

    def _few_at_a_time(self, purge: Callable[[Transaction, int], int], limit: int, wait: bool) -> int:
        removed = found = 0
        while few := min(PURGED_TOGETHER, limit - removed):
            with self._turn(wait) as transaction:
                found = purge(transaction, few)
            removed += found
            if found < few:
                break
        return removed

    @contextmanager
    def _turn(self, wait: bool) -> Iterator[Transaction]:
        """A short transaction. After it the turn to write is left free, for long enough to be seen by who waits."""
        with self._database.transaction(wait) as transaction:
            yield transaction
        if wait:
            self._database.tidy()
            time.sleep(4 * PAUSE)

    def _purge_owners(self, past: tuple[float, float], transaction: Transaction, limit: int) -> int:
        owners = transaction.execute(schema.PAST_OWNERS, (*past, limit))
        for owner, expiry in owners:
            transaction.execute(schema.DELETE_SESSION, (owner, expiry))
            forget_files(transaction, self._buffers, transaction.execute(schema.CLEAR, (owner, owner)))
        return len(owners)

    def _purge_keys(self, now: float, transaction: Transaction, limit: int) -> int:
        places = [place for (place,) in transaction.execute(schema.PAST_KEYS, (now, limit))]
        for place in places:
            forget_files(transaction, self._buffers, transaction.execute(schema.DELETE_EXPIRED, (place, now)))
        for owner in {place.partition("/")[0] for place in places}:
            nbytes, count = transaction.execute(schema.MEASURE, {"owner": owner})[0]
            transaction.execute(schema.RECOUNT, (nbytes, count, owner))
        return len(places)

    def _empty_ended(self, limit: int, wait: bool) -> None:
        """Delete the values of those who ended on a full disk."""
        while rows := self._database.select(schema.ENDED_WITH_VALUES, (limit,)):
            for (owner,) in rows:
                with self._turn(wait) as transaction:
                    forget_files(transaction, self._buffers, transaction.execute(schema.CLEAR, (owner, owner)))
                    transaction.execute(schema.RECOUNT, (0, 0, owner))
            if not wait:
                return

    def _vacuum(self, wait: bool) -> None:
        """Give free pages back to the file system: all of them, or at a request's end one step's worth, if there is."""
        before, free = math.inf, self._free_pages()
        # A file that was not made by this package may be one that gives nothing back.
        while (0 if wait else VACUUM_PAGES) < free < before:
            with self._turn(wait) as transaction:
                transaction.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            if not wait:
                return
            before, free = free, self._free_pages()

    def _free_pages(self) -> int:
        return int(self._database.select("PRAGMA freelist_count")[0][0])

    def _purge_orphans(self, before: float) -> None:
        for file in self._buffers.written_before(before):
            if not self._database.select(schema.IS_NAMED, (file,)):
                self._buffers.remove([file])
