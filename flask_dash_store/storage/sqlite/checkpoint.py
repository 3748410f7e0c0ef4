"""When the WAL is copied into the database (https://www.sqlite.org/wal.html#ckpt)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import apsw

from ...errors import StorageError
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
        self._making = threading.Lock()

    @property
    def is_due(self) -> bool:
        return self._pool.wal_pages >= WAL_PAGES

    def make_if_due(self) -> None:
        """Copy the WAL into the database when it has become long. SQLite by itself would do so in a writer's time."""
        pool = self._pool
        if not self.is_due or not self._making.acquire(blocking=False):
            return
        try:
            is_long = pool.wal_pages > LONG_WAL_PAGES
            pool.wal_pages = 0
            if is_long:
                with suppress(StorageError), self._writers_waiting():
                    self.make()
            else:
                self.make()
        finally:
            self._making.release()

    @contextmanager
    def _writers_waiting(self) -> Iterator[None]:
        try:
            self._pool.acquire_write_lock(self._pool.timeout)
            yield
        finally:
            self._pool.write_lock.release()

    def make(self, truncate: bool = False) -> None:
        """Copy the WAL into the database, as far as readers let it, so that the next write begins at its start.

        :param truncate: whether to wait for readers and writers, and leave the WAL empty
        """
        try:
            connection = self._pool.acquire()
            try:
                connection.timeout = 0.0
                with suppress(apsw.BusyError):  # Another process is doing it.
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                connection.timeout = self._pool.timeout
                if truncate:  # Writers wait for this one, so it is left little to do.
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                connection.timeout = self._pool.timeout
                self._pool.release(connection)
        except apsw.BusyError:
            pass  # A reader takes longer than the timeout.
        except (apsw.Error, StorageError) as error:
            # What was committed is in the WAL, and stays there until a checkpoint succeeds.
            logger.warning("A checkpoint of the storage %s failed: %s", self._pool.name, error)
