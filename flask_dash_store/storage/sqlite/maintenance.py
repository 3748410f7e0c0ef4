"""Removes what has expired, and frees its space, in short transactions, so that requests hardly wait for them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

from ..base import Expired, Removed
from . import schema
from .buffer_files import BufferFiles
from .connection import MAX_DELAY, Row
from .database import Database, Transaction
from .schema import PAGE_BYTES

# As much as can be removed in a millisecond or two: owners with a few small values each, or pages of larger ones.
OWNERS_PER_CALL = 16
PAGES_PER_CALL = 128
VACUUM_PAGES = 32
# A file of a large value that no row names is an orphan of a crash, unless its writer has not yet committed the row.
ORPHAN_AGE = 60 * 60.0


def remove_files_on_commit(transaction: Transaction, buffers: BufferFiles, rows: Iterable[Row]) -> None:
    """Remove the files of deleted or replaced rows once the transaction is committed."""
    files = [file for (file,) in rows if file is not None]
    if files:
        transaction.on_commit(partial(buffers.remove, files))


def delete_some(
    transaction: Transaction, buffers: BufferFiles, sql: str, owner: str, pages: int = PAGES_PER_CALL, now: float = 0.0
) -> int:
    """Delete values of an owner until a number of pages has changed.

    :param sql: selects the values, with their lengths
    :param pages: how many pages to change. Each value changes at least one.
    :returns: how many of ``pages`` are left. If any are, no value is.
    """
    for rowid, nbytes in transaction.execute(sql, {"owner": owner, "now": now, "limit": pages}):
        remove_files_on_commit(transaction, buffers, transaction.execute(schema.DELETE_ROW, (rowid,)))
        pages -= 1 + (nbytes or 0) // PAGE_BYTES
        if pages <= 0:
            break
    return pages


class Maintenance:
    """Implements :meth:`Storage.maintain` on SQLite."""

    def __init__(self, database: Database, buffers: BufferFiles) -> None:
        self._database = database
        self._buffers = buffers
        self._orphans_removed_at = 0.0

    def run(self, now: float, ended_before: float, wait: bool, expired: Expired | None) -> Removed:
        """Run a short transaction that removes values or, if there are none to remove, one that frees space."""
        keys_of: dict[str, list[str]] | None = None if expired is None else {}
        with self._database.transaction(wait) as transaction:
            keys, more_keys = self._remove_keys(transaction, now)
            owners, more_owners = self._remove_owners(transaction, now, ended_before, keys_of)
            more_values = self._remove_deleted(transaction, PAGES_PER_CALL if not (keys or owners) else 0)
        if expired is not None and keys_of is not None:
            for owner, names in keys_of.items():
                expired(owner, names)
        has_more = more_keys or more_owners or more_values or self._vacuum(wait)
        if has_more:
            if wait:  # Leave the lock free for long enough that other processes, which poll, can acquire it.
                time.sleep(4 * MAX_DELAY)
        else:
            self._finish(now, wait)
        return Removed(owners, keys, has_more)

    def _remove_keys(self, transaction: Transaction, now: float) -> tuple[int, bool]:
        """Remove keys whose own expiry has passed. Returns how many, and whether there are more."""
        rows = transaction.execute(schema.PAST_KEYS, (now, OWNERS_PER_CALL))
        for row in rows:
            remove_files_on_commit(transaction, self._buffers, transaction.execute(schema.DELETE_ROW, row))
        return len(rows), len(rows) == OWNERS_PER_CALL

    def _remove_owners(
        self, transaction: Transaction, now: float, ended_before: float, keys_of: dict[str, list[str]] | None
    ) -> tuple[int, bool]:
        """Remove expired owners. Returns how many, and whether there are more.

        :param keys_of: gets the keys of the owners whose removal begins; None if they are not needed
        """
        rows = transaction.execute(schema.PAST_OWNERS, (-ended_before, now, OWNERS_PER_CALL))
        pages, removed = PAGES_PER_CALL, 0
        for name, expiry, renewed in rows:
            if keys_of is not None and expiry is not None:
                keys = [key[len(name) + 1 :] for (key,) in transaction.execute(schema.ALL_KEYS, {"owner": name})]
                if keys:
                    keys_of[name] = keys
            pages = delete_some(transaction, self._buffers, schema.SIZES, name, pages)
            if pages <= 0:
                if keys_of is not None:
                    transaction.execute(schema.NOTE_REMOVAL, (name, expiry))
                return removed, True  # Deleting only some of the values does no harm: they have expired.
            is_remembered = isinstance(renewed, float) and renewed >= ended_before
            sql = schema.KEEP_RENEWED if is_remembered else schema.DELETE_SESSION
            transaction.execute(sql, (name, expiry))
            removed += transaction.changes
        return removed, len(rows) == OWNERS_PER_CALL

    def _remove_deleted(self, transaction: Transaction, pages: int) -> bool:
        """Remove some rows that count as deleted, of the first owner with any. Returns whether there was one."""
        for (name,) in transaction.execute(schema.WITH_DELETED):
            delete_some(transaction, self._buffers, schema.SIZES_DELETED, name, pages)
            return True
        return False

    def _vacuum(self, wait: bool) -> bool:
        """Return some free pages to the file system. Returns whether there are more."""
        enough = 0 if wait else VACUUM_PAGES
        before = self._free_pages()
        if before <= enough:
            return False
        with self._database.transaction(wait) as transaction:
            transaction.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            after = self._free_pages()
        # A file that this package did not create may not support incremental vacuum.
        if after == before:
            return False
        if after <= enough and not wait:
            self._database.checkpoints.make()  # Without it, the file only shrinks with the next checkpoint.
        return after > enough

    def _free_pages(self) -> int:
        return int(self._database.select("PRAGMA freelist_count")[0][0])

    def _finish(self, now: float, wait: bool) -> None:
        """Remove orphaned files, and empty the WAL, once nothing else is left to remove."""
        self._buffers.remove_again()
        if wait or not now - ORPHAN_AGE < self._orphans_removed_at <= now:
            self._orphans_removed_at = now
            for file in self._buffers.written_before(now - ORPHAN_AGE):
                if not self._database.select(schema.IS_NAMED, (file,)):
                    self._buffers.remove([file])
        if wait:
            self._database.checkpoints.truncate()  # Deleted data can still be read in the WAL.
