"""One SQLite database as the rest of the storage sees it: queries, and transactions that they join by themselves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import apsw

from ...errors import StorageError
from ..transaction import Savepoint, begun, current_transaction
from .connection import Errors
from .pool import Pool
from .transaction import Bindings, Row, Transaction

logger = logging.getLogger("flask_dash_store")

# A checkpoint waits for the disk, and copies each changed page once however often it has changed. It is made once a
# response has been sent, or else by a later write. While requests write, one can end without having caught up with
# them; a WAL that has grown much longer gets one for which this process's writers wait.
WAL_PAGES = 4096
OVERDUE_WAL_PAGES = 2 * WAL_PAGES
LONG_WAL_PAGES = 8 * WAL_PAGES


class Database:
    """Runs statements on a pool's connections, or inside the transaction that the caller's context is in.

    :param storage: by which the calls of a context find their transaction
    """

    def __init__(self, storage: object, pool: Pool) -> None:
        self._storage = storage
        self._pool = pool
        self._checkpointing = threading.Lock()

    def select(self, sql: str, args: Bindings = ()) -> list[Row]:
        """All rows of a query."""
        if begun.get() and (transaction := self._current()) is not None:
            return transaction.execute(sql, args)
        connection = self._pool.acquire()
        try:
            return connection.execute(sql, args).fetchall()
        except Errors as error:
            raise self._pool.error(error, connection) from error
        finally:
            self._pool.release(connection)

    def select_one(self, sql: str, args: Bindings = ()) -> Row | None:
        """The first row of a query; None when it gives none."""
        if begun.get() and (transaction := self._current()) is not None:
            return next(iter(transaction.execute(sql, args)), None)
        connection = self._pool.acquire()
        try:
            row: Row | None = connection.execute(sql, args).fetchone()
            return row
        except Errors as error:
            raise self._pool.error(error, connection) from error
        finally:
            self._pool.release(connection)

    def change(self, sql: str, args: Bindings) -> int:
        """Run one statement that writes, as a transaction of its own. Returns how many rows it changed.

        :raises StorageBusy: when others write for longer than the pool's timeout
        """
        if begun.get() and (transaction := self._current()) is not None:
            transaction.execute(sql, args)
            return transaction.changes
        pool = self._pool
        timeout = pool.acquire_write_lock(pool.timeout)
        try:
            connection = pool.acquire()
            try:
                connection.timeout = timeout
                connection.execute(sql, args)
                changes = connection.changes()
            except Errors as error:
                raise pool.error(error, connection) from error
            finally:
                connection.timeout = pool.timeout
                pool.release(connection)
        finally:
            pool.release_write_lock()
        if pool.wal_pages >= OVERDUE_WAL_PAGES:
            self.checkpoint_if_due()
        return changes

    def _current(self) -> Transaction | None:
        return current_transaction(self._storage, Transaction)

    def transaction(self, wait: bool = True) -> Transaction | Savepoint[Transaction]:
        """A write transaction; inside another one of the same context, a savepoint.

        :param wait: whether to wait for other writers
        :raises StorageBusy: when others write for longer than the pool's timeout, or without ``wait`` at all
        """
        outer = self._current()
        return Transaction(self._storage, self._pool, wait) if outer is None else outer.savepoint()

    def is_in_transaction(self) -> bool:
        """Whether the caller's context is in a transaction."""
        return self._current() is not None

    @contextmanager
    def snapshot(self, meanwhile: Callable[[], None]) -> Iterator[apsw.Connection]:
        """A connection that sees what is stored now, whatever is written later.

        :param meanwhile: called at that point in time, while no one writes
        """
        connection = self._pool.acquire()
        try:
            with self.transaction():
                connection.execute("BEGIN").fetchall()
                connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchall()
                meanwhile()
            yield connection
        finally:
            self._pool.release(connection)

    @property
    def is_checkpoint_due(self) -> bool:
        return self._pool.wal_pages >= WAL_PAGES

    def checkpoint_if_due(self) -> None:
        """Copy the WAL into the database when it has become long. SQLite by itself would do so in a writer's time."""
        pool = self._pool
        if not self.is_checkpoint_due or not self._checkpointing.acquire(blocking=False):
            return
        try:
            is_long = pool.wal_pages > LONG_WAL_PAGES
            pool.wal_pages = 0
            if is_long:
                with suppress(StorageError), self._writers_waiting():
                    self.checkpoint()
            else:
                self.checkpoint()
        finally:
            self._checkpointing.release()

    @contextmanager
    def _writers_waiting(self) -> Iterator[None]:
        self._pool.acquire_write_lock(self._pool.timeout)
        try:
            yield
        finally:
            self._pool.release_write_lock()

    def checkpoint(self, truncate: bool = False) -> None:
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

    def close(self) -> None:
        self._pool.close()
