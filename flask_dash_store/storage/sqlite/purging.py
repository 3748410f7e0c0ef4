"""Removing what has expired, and giving its space back, in transactions so short that no request waits for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from . import schema
from .buffers import BufferStore
from .database import Database
from .schema import PAGE_BYTES
from .transaction import Row, Transaction
from .waiting import PAUSE

# As many as can be removed in a millisecond or two: owners with a few small values each, or pages of larger ones.
PURGED_TOGETHER = 16
PAGES_TOGETHER = 128
VACUUM_PAGES = 32
# A large value's file that no row names was left by a crash, unless its writer has still to commit the row.
ORPHAN_AGE = 60 * 60.0


def forget_files(transaction: Transaction, buffers: BufferStore, rows: Iterable[Row]) -> None:
    """Have the files of deleted or replaced rows removed once that is committed."""
    files = [file for (file,) in rows if file is not None]
    if files:
        transaction.then(on_commit=partial(buffers.remove, files))


class Purging:
    """What :meth:`Storage.purge` and :meth:`Storage.purge_keys` promise, on SQLite."""

    def __init__(self, database: Database, buffers: BufferStore) -> None:
        self._database = database
        self._buffers = buffers
        self._orphans_purged_at = 0.0

    def owners(self, now: float, ended_before: float, limit: int, wait: bool) -> int:
        past = (-max(ended_before, 0.0), now)
        removed, is_done = self._few_at_a_time(partial(self._purge_owners, past), limit, wait)
        if wait and not is_done:
            return removed  # What follows is done once, when there is no more to do.
        self._empty_ended(limit, wait)
        is_done &= self._vacuum(wait, is_last=is_done)
        if wait or not now - ORPHAN_AGE < self._orphans_purged_at <= now:
            self._orphans_purged_at = now
            self._purge_orphans(now - ORPHAN_AGE)
        if wait:
            self._database.checkpoint(truncate=True)  # What was deleted is still to be read in the WAL.
        return removed if wait or is_done else limit

    def keys(self, now: float, limit: int, wait: bool) -> int:
        removed, _ = self._few_at_a_time(partial(self._purge_keys, now), limit, wait)
        return removed

    def _few_at_a_time(
        self, purge: Callable[[Transaction, int], tuple[int, bool]], limit: int, wait: bool
    ) -> tuple[int, bool]:
        """How many were removed, and whether those were all. Who does not wait takes one turn."""
        removed, is_done = 0, False
        while not is_done and (few := min(PURGED_TOGETHER, limit - removed)):
            with self._turn(wait) as transaction:
                found, is_done = purge(transaction, few)
            removed += found
            if not wait:
                break
        return removed, is_done

    @contextmanager
    def _turn(self, wait: bool) -> Iterator[Transaction]:
        """A short transaction. After it the turn to write is left free, for long enough to be seen by who waits."""
        with self._database.transaction(wait) as transaction:
            yield transaction
        if wait:
            self._database.tidy()
            time.sleep(4 * PAUSE)

    def _purge_owners(self, past: tuple[float, float], transaction: Transaction, limit: int) -> tuple[int, bool]:
        owners = transaction.execute(schema.PAST_OWNERS, (*past, limit))
        pages, removed = PAGES_TOGETHER, 0
        for owner, expiry in owners:
            pages = self._delete_values(transaction, owner, pages)
            if pages <= 0:
                return removed, False  # Nobody misses the values that are deleted already: they have expired.
            transaction.execute(schema.DELETE_SESSION, (owner, expiry))
            removed += transaction.changes
        return removed, len(owners) < limit or not removed

    def _delete_values(self, transaction: Transaction, owner: str, pages: int) -> int:
        """Delete values until that has changed so many pages. Returns how many are left: none if values may be, too."""
        for rowid, nbytes in transaction.execute(schema.SIZES, (owner, owner, pages)):
            forget_files(transaction, self._buffers, transaction.execute(schema.DELETE_ROW, (rowid,)))
            pages -= 1 + (nbytes or 0) // PAGE_BYTES
            if pages <= 0:
                break
        return pages

    def _purge_keys(self, now: float, transaction: Transaction, limit: int) -> tuple[int, bool]:
        places = [place for (place,) in transaction.execute(schema.PAST_KEYS, (now, limit))]
        for place in places:
            forget_files(transaction, self._buffers, transaction.execute(schema.DELETE_EXPIRED, (place, now)))
        for owner in {place.partition("/")[0] for place in places}:
            nbytes, count = transaction.execute(schema.MEASURE, {"owner": owner})[0]
            transaction.execute(schema.RECOUNT, (nbytes, count, owner))
        return len(places), len(places) < limit

    def _empty_ended(self, limit: int, wait: bool) -> None:
        """Delete the values of those who ended on a full disk."""
        while rows := self._database.select(schema.ENDED_WITH_VALUES, (limit,)):
            for (owner,) in rows:
                with self._turn(wait) as transaction:
                    forget_files(transaction, self._buffers, transaction.execute(schema.CLEAR, (owner, owner)))
                    transaction.execute(schema.RECOUNT, (0, 0, owner))
            if not wait:
                return

    def _vacuum(self, wait: bool, is_last: bool) -> bool:
        """Give free pages back to the file system. Who does not wait takes one turn. Returns whether that is done.

        :param is_last: whether nothing more will be removed for now
        """
        while self._free_pages() > (0 if wait else VACUUM_PAGES):
            with self._turn(wait) as transaction:
                before = self._free_pages()
                transaction.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
                free = self._free_pages()
            if free == before:
                return True  # A file that was not made by this package may be one that gives nothing back.
            if not wait:
                if is_last and free <= VACUUM_PAGES:
                    self._database.checkpoint()  # The file becomes shorter with the next one, whenever that is.
                return free <= VACUUM_PAGES
        return True

    def _free_pages(self) -> int:
        return int(self._database.select("PRAGMA freelist_count")[0][0])

    def _purge_orphans(self, before: float) -> None:
        for file in self._buffers.written_before(before):
            if not self._database.select(schema.IS_NAMED, (file,)):
                self._buffers.remove([file])
