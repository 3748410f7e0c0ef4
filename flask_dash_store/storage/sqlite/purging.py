"""Removing what has expired, and giving its space back, in transactions so short that no request waits for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

from . import schema
from .buffers import Buffers
from .database import Database
from .transaction import Row, Transaction

PURGED_TOGETHER = 4
VACUUM_PAGES = 32
VACUUMS = 4
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
        removed = 0
        for few in self._past(schema.PAST_OWNERS, (-max(ended_before, 0.0), now, limit), wait):
            with self._database.transaction(wait) as transaction:
                removed += sum(self._purge_owner(transaction, owner, expiry) for owner, expiry in few)
        self._empty_ended(limit, wait)
        self._vacuum(wait)
        if wait or not now - ORPHAN_AGE < self._orphans_purged_at <= now:
            self._orphans_purged_at = now
            self._purge_orphans(now - ORPHAN_AGE)
        if wait and removed < limit:
            self._database.checkpoint(truncate=True)  # What was deleted is still to be read in the WAL.
        return removed

    def keys(self, now: float, limit: int, wait: bool) -> int:
        removed = 0
        for few in self._past(schema.PAST_KEYS, (now, limit), wait):
            with self._database.transaction(wait) as transaction:
                removed += self._purge_keys(transaction, [place for (place,) in few], now)
        return removed

    def _past(self, sql: str, args: tuple[float, ...], wait: bool) -> Iterator[list[Row]]:
        """What has to be purged, a few at a time. To ask is a transaction too, so that it waits, or not, as told."""
        with self._database.transaction(wait) as transaction:
            rows = transaction.execute(sql, args)
        for start in range(0, len(rows), PURGED_TOGETHER):
            yield rows[start : start + PURGED_TOGETHER]

    def _purge_owner(self, transaction: Transaction, owner: str, expiry: object) -> bool:
        transaction.execute(schema.DELETE_SESSION, (owner, expiry))
        if not transaction.changes:
            return False  # It has been used again since it was looked for.
        forget_files(transaction, self._buffers, transaction.execute(schema.CLEAR, (owner, owner)))
        return True

    def _empty_ended(self, limit: int, wait: bool) -> None:
        """Delete the values of those who ended on a full disk."""
        while rows := self._database.select(schema.ENDED_WITH_VALUES, (limit,)):
            for (owner,) in rows:
                with self._database.transaction(wait) as transaction:
                    forget_files(transaction, self._buffers, transaction.execute(schema.CLEAR, (owner, owner)))
                    transaction.execute(schema.RECOUNT, (0, 0, owner))
            if not wait:
                return

    def _purge_keys(self, transaction: Transaction, places: list[str], now: float) -> int:
        removed = 0
        for place in places:
            deleted = transaction.execute(schema.DELETE_EXPIRED, (place, now))
            forget_files(transaction, self._buffers, deleted)
            removed += len(deleted)
        for owner in {place.partition("/")[0] for place in places}:
            nbytes, count = transaction.execute(schema.MEASURE, {"owner": owner})[0]
            transaction.execute(schema.RECOUNT, (nbytes, count, owner))
        return removed

    def _vacuum(self, wait: bool) -> None:
        """Give free pages back to the file system: all of them, or as many as a request's end has time for."""
        steps, before, free = 0, math.inf, self._free_pages()
        # A file that was not made by this package may be one that gives nothing back.
        while 0 < free < before and (wait or steps < VACUUMS):
            with self._database.transaction(wait) as transaction:
                transaction.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            steps, before, free = steps + 1, free, self._free_pages()

    def _free_pages(self) -> int:
        return int(self._database.select("PRAGMA freelist_count")[0][0])

    def _purge_orphans(self, before: float) -> None:
        for file in self._buffers.written_before(before):
            if not self._database.select(schema.IS_NAMED, (file,)):
                self._buffers.remove([file])
