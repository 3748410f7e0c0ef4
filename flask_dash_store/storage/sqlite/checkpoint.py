"""Checkpoints: when the WAL is copied into the database (https://www.sqlite.org/wal.html#ckpt)."""

from __future__ import annotations

import logging
from contextlib import suppress

import apsw

from ...errors import StorageBusy, StorageError
from ..lock import Lock
from .pool import Pool

logger = logging.getLogger("flask_dash_store")

# A checkpoint waits for the disk, and copies each changed page once, however often it has changed. It is made after a
# response, or else after a later write, each time the WAL has grown by so many pages.
WAL_PAGES = 4096
OVERDUE_WAL_PAGES = 2 * WAL_PAGES
# SQLite can only restart the WAL from its beginning while no one reads from it. If readers always overlap, it grows
# without end. So beyond these lengths, a checkpoint waits for the current readers, at most for so many seconds. This
# blocks writers, but not new readers.
LONG_WAL_PAGES = 4 * WAL_PAGES
LONG_WAIT = 0.025
HUGE_WAL_PAGES = 16 * WAL_PAGES
HUGE_WAIT = 1.0
# Such a checkpoint should have little left to copy, so ordinary ones are made first, until others write little.
LITTLE_WAL_PAGES = 256
ROUNDS = 4


class Checkpoints:
    """The checkpoints that this process makes of one database.

    :param pool: the connections to it
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._making = Lock(pool.name, pool.timeout)
        self._pages_then = 0

    @property
    def is_due(self) -> bool:
        return self._grown() >= WAL_PAGES

    def _grown(self) -> int:
        """By how many pages the WAL has grown since the last checkpoint that this process made."""
        pages = self._pool.wal_pages
        if pages < self._pages_then:  # The WAL was restarted.
            self._pages_then = 0
        return pages - self._pages_then

    def make_if_overdue(self) -> None:
        """Make a checkpoint after a write, if no response has triggered one."""
        if self._grown() >= OVERDUE_WAL_PAGES:
            self.make_if_due()

    def make_if_due(self) -> None:
        """Make a checkpoint if the WAL has become long. SQLite by itself would do so during a write."""
        if not self.is_due:
            return
        # One thread at a time is enough.
        with suppress(StorageBusy), self._making.held(timeout=0.0):
            pages = self._pages_then = self._pool.wal_pages
            if pages <= LONG_WAL_PAGES:
                self.make()
            else:
                self._catch_up()
                wait = LONG_WAIT if pages <= HUGE_WAL_PAGES else HUGE_WAIT
                with self._pool.write_lock.held(min(wait, self._pool.timeout)) as left:
                    self.make(apsw.SQLITE_CHECKPOINT_RESTART, left)

    def truncate(self) -> None:
        """Empty the WAL, unless readers and writers take longer than a call may wait."""
        self._catch_up()
        self.make(apsw.SQLITE_CHECKPOINT_TRUNCATE, self._pool.timeout)

    def _catch_up(self) -> None:
        """Copy the WAL while others write, until they have written little during a checkpoint."""
        before = 0
        for _ in range(ROUNDS):
            pages = self.make()
            if pages - before <= LITTLE_WAL_PAGES:
                return
            before = pages

    def make(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE, wait: float = 0.0) -> int:
        """Copy the WAL into the database, as far as readers allow. Returns how many pages the WAL had."""
        pool = self._pool
        try:
            connection = pool.acquire()
            try:
                connection.backoff.timeout = wait
                return connection.sqlite.wal_checkpoint(mode=mode)[0]
            finally:
                connection.backoff.timeout = pool.timeout
                pool.release(connection)
        except apsw.BusyError:
            pass  # Another process is making one, or a reader takes too long.
        except (apsw.Error, StorageError) as error:
            # Commits are safe in the WAL until a checkpoint succeeds.
            logger.warning("A checkpoint of the %s failed: %s", pool.name, error)
        return 0
