"""When the WAL is copied into the database (https://www.sqlite.org/wal.html#ckpt)."""

from __future__ import annotations

import logging
from contextlib import suppress

import apsw

from ...errors import StorageBusy, StorageError
from ..lock import Lock
from .pool import Pool

logger = logging.getLogger("flask_dash_store")

# A checkpoint waits for the disk, and copies each changed page once however often it has changed. It is made once a
# response has been sent, or else by a later write, each time that the WAL has grown by so many pages.
WAL_PAGES = 4096
OVERDUE_WAL_PAGES = 2 * WAL_PAGES
# The WAL begins at its start again when no one reads from it. While readers always overlap that is never so, and it
# grows without end. So beyond these lengths a checkpoint waits for those who are reading, which keeps out writers, but
# no new readers, for as long as the longest read that has begun, or for so many seconds at most.
LONG_WAL_PAGES = 4 * WAL_PAGES
LONG_WAIT = 0.025
HUGE_WAL_PAGES = 16 * WAL_PAGES
HUGE_WAIT = 1.0
# What others have written meanwhile is left to such a checkpoint, so first it is made little.
LITTLE_WAL_PAGES = 256
ROUNDS = 4


class Checkpoints:
    """The checkpoints that this process makes of one database.

    :param pool: of the connections to it
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
        if pages < self._pages_then:  # It has begun at its start again.
            self._pages_then = 0
        return pages - self._pages_then

    def make_if_overdue(self) -> None:
        """Make a checkpoint after a write, where no response was sent after which it would have been made."""
        if self._grown() >= OVERDUE_WAL_PAGES:
            self.make_if_due()

    def make_if_due(self) -> None:
        """Copy the WAL into the database when it has become long. SQLite by itself would do so during a write."""
        if not self.is_due:
            return
        # Another thread that makes one is enough.
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
        """Leave the WAL empty, unless readers and writers take longer than a call may wait."""
        self._catch_up()
        self.make(apsw.SQLITE_CHECKPOINT_TRUNCATE, self._pool.timeout)

    def _catch_up(self) -> None:
        """Copy the WAL while others write, until they have written little meanwhile."""
        before = 0
        for _ in range(ROUNDS):
            pages = self.make()
            if pages - before <= LITTLE_WAL_PAGES:
                return
            before = pages

    def make(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE, wait: float = 0.0) -> int:
        """Copy the WAL into the database, as far as readers let it, so that the next write begins at its start.

            logger.warning("A checkpoint of the %s failed: %s", pool.name, error)
        return 0
        """
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
            pass  # Another process is making one, or a reader takes longer.
        except (apsw.Error, StorageError) as error:
            # What was committed is in the WAL, and stays there until a checkpoint succeeds.
            logger.warning("A checkpoint of the %s failed: %s", pool.name, error)
        return 0
