"""One SQLite database as the rest of the storage sees it: queries, and transactions that they join by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import apsw

from ..transaction import begun, current_transaction, joined
from .checkpoint import OVERDUE_WAL_PAGES, Checkpoints
from .connection import Bindings, Errors, Row
from .pool import Pool
from .transaction import Transaction


class Database:
    """Runs statements on a pool's connections, or inside the transaction that the caller's context is in.

    :param storage: by which the calls of a context find their transaction
    """

    def __init__(self, storage: object, pool: Pool) -> None:
        self._storage = storage
        self._pool = pool
        self.checkpoints = Checkpoints(pool)

    def select(self, sql: str, args: Bindings = ()) -> list[Row]:
        """All rows of a query."""
        if begun.get() and (transaction := self._current()) is not None:
            return transaction.execute(sql, args)
        connection = self._pool.acquire()
        try:
            return connection.run(sql, args).fetchall()
        except Errors as error:
            raise self._pool.error(error, connection) from error
        except BaseException:
            connection.renew_cursor()
            raise
        finally:
            self._pool.release(connection)

    def change(self, sql: str, args: Bindings) -> int:
        """Run one statement that writes, as a transaction of its own. Returns how many rows it changed.

        :raises StorageBusy: when others write for longer than the pool's timeout
        """
        if begun.get() and (transaction := self._current()) is not None:
            transaction.execute(sql, args)
            return transaction.changes
        pool, is_released = self._pool, False
        try:
            try:
                timeout = pool.acquire_write_lock(pool.timeout)
                connection = pool.acquire()
                try:
                    connection.backoff.timeout = timeout
                    connection.run(sql, args)
                    changes = connection.changes()
                except Errors as error:
                    raise pool.error(error, connection) from error
                finally:
                    connection.backoff.timeout = pool.timeout
                    pool.release(connection)
            finally:
                pool.write_lock.release()  # The pool has another one once it has noticed a fork.
                is_released = True
        finally:  # A signal's handler may have raised before the first instruction of that.
            if not is_released:
                pool.write_lock.release()
        if pool.wal_pages >= OVERDUE_WAL_PAGES:
            self.checkpoints.make_if_overdue()
        return changes

    def _current(self) -> Transaction | None:
        return current_transaction(self._storage, Transaction)

    def transaction(self, wait: bool = True) -> AbstractContextManager[Transaction]:
        """A write transaction; inside another one of the same context, a savepoint.

        :param wait: whether to wait for other writers
        :raises StorageBusy: when others write for longer than the pool's timeout, or without ``wait`` at all
        """

        def begin() -> Transaction:
            transaction = Transaction(self._storage, self._pool, wait)
            transaction.on_commit(self.checkpoints.make_if_overdue)
            return transaction

        return joined(self._storage, Transaction, begin)

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
                connection.run("BEGIN")
                connection.run("SELECT COUNT(*) FROM sqlite_schema").fetchall()
                meanwhile()
            yield connection.sqlite
        finally:
            self._pool.release(connection)

    def close(self) -> None:
        self._pool.close()
