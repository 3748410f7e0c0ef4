"""When the WAL is copied into the database (https://www.sqlite.org/wal.html#ckpt)."""

from __future__ import annotations

import logging
from contextlib import nullcontext, suppress

import apsw

from ...errors import StorageBusy, StorageError
from ..lock import Lock
from .pool import Pool

logger = logging.getLogger("flask_dash_store")

# A checkpoint waits for the disk, and copies each changed page once however often it has changed. It is made once a
# response has been sent, or else by a later write. While requests write, one can end without having caught up with
# them; a WAL that has grown much longer gets one for which this process's writers wait.
WAL_PAGES = 4096
OVERDUE_WAL_PAGES = 2 * WAL_PAGES
LONG_WAL_PAGES = 8 * WAL_PAGES


class Checkpoints:
    """Those of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._making = Lock(pool.name, pool.timeout)

    @property
    def is_due(self) -> bool:
        return self._pool.wal_pages >= WAL_PAGES

    def make_if_overdue(self) -> None:
        """Do what no response has been sent for, after a write."""
        if self._pool.wal_pages >= OVERDUE_WAL_PAGES:
            self.make_if_due()

    def make_if_due(self) -> None:
        """Copy the WAL into the database when it has become long. SQLite by itself would do so in a writer's time."""
        pool = self._pool
        if not self.is_due:
            return
        # Another thread that makes one is enough.
        with suppress(StorageBusy), self._making.held(timeout=0.0):
            is_long = pool.wal_pages > LONG_WAL_PAGES
            pool.wal_pages = 0
            with pool.write_lock.held(pool.timeout) if is_long else nullcontext():
                self.make()

    def make(self, truncate: bool = False) -> None:
        """Copy the WAL into the database, as far as readers let it, so that the next write begins at its start.

        :param truncate: whether to wait for readers and writers, and leave the WAL empty
        """
        try:
            connection = self._pool.acquire()
            try:
                connection.backoff.timeout = 0.0
                with suppress(apsw.BusyError):  # Another process is doing it.
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                connection.backoff.timeout = self._pool.timeout
                if truncate:  # Writers wait for this one, so it is left little to do.
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                connection.backoff.timeout = self._pool.timeout
                self._pool.release(connection)
        except apsw.BusyError:
            pass  # A reader takes longer than the timeout.
        except (apsw.Error, StorageError) as error:
            # What was committed is in the WAL, and stays there until a checkpoint succeeds.
            logger.warning("A checkpoint of the storage %s failed: %s", self._pool.name, error)
