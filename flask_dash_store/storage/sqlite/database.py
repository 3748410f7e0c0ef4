"""One SQLite database: queries, and transactions, which queries of the same context join.

A write transaction acquires SQLite's write lock when it begins, so that what it reads cannot change before it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import apsw

from ...errors import StorageError
from ..transaction import Transaction as Base
from ..transaction import begun, current_transaction, joined
from .checkpoint import OVERDUE_WAL_PAGES, Checkpoints
from .connection import Bindings, Connection, Errors, Row
from .pool import Pool


class Database:
    """Runs statements on a pool's connections, or in the current context's transaction.

    :param storage: the storage, by which the calls of a context find their transaction
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
        """Run one statement that writes, as its own transaction. Returns how many rows it changed.

        :raises StorageBusy: if others hold the write lock for longer than the pool's timeout
        """
        if begun.get() and (transaction := self._current()) is not None:
            transaction.execute(sql, args)
            return transaction.changes
        pool, is_released = self._pool, False
        try:
            try:
                connection = pool.acquire_writer(pool.timeout)
                try:
                    connection.run(sql, args)
                    changes = connection.changes()
                except Errors as error:
                    raise pool.error(error, connection) from error
                finally:
                    connection.backoff.timeout = pool.timeout
                    pool.release(connection)
            finally:
                pool.write_lock.release()  # Not a local variable: after a fork, the pool has another lock.
                is_released = True
        finally:  # A signal handler may have raised before the first instruction of the inner `finally`.
            if not is_released:
                pool.write_lock.release()
        if pool.wal_pages >= OVERDUE_WAL_PAGES:
            self.checkpoints.make_if_overdue()
        return changes

    def _current(self) -> Transaction | None:
        return current_transaction(self._storage, Transaction)

    def transaction(self, wait: bool = True) -> AbstractContextManager[Transaction]:
        """A write transaction; in the current context's transaction, a savepoint.

        :param wait: whether to wait for other writers
        :raises StorageBusy: if others hold the write lock for longer than the pool's timeout, or at all without
            ``wait``
        """

        def begin() -> Transaction:
            transaction = Transaction(self._storage, self._pool, wait)
            transaction.on_commit(self.checkpoints.make_if_overdue)
            return transaction

        return joined(self._storage, Transaction, begin)

    def is_in_transaction(self) -> bool:
        """Whether the current context is in a transaction."""
        return self._current() is not None

    @contextmanager
    def snapshot(self, meanwhile: Callable[[], None]) -> Iterator[apsw.Connection]:
        """A connection that sees what is stored now, and no later writes.

        :param meanwhile: called at that point in time, while no one can write
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


class Transaction(Base):
    """A write transaction of one context.

    :param storage: the storage, by which the calls of the context find it
    :param wait: whether to wait for other writers, at most for the pool's timeout
    """

    _connection: Connection | None = None

    def __init__(self, storage: object, pool: Pool, wait: bool = True) -> None:
        super().__init__(storage, pool.name, pool.timeout)
        self.pool = pool
        self._wait = wait

    def _begin(self) -> None:
        pool = self.pool
        self._connection = connection = pool.acquire_writer(pool.timeout if self._wait else 0.0, self)
        try:
            connection.run("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise pool.error(error, connection) from error
        finally:
            connection.backoff.timeout = pool.timeout

    def _commit(self) -> None:
        connection = self._in_transaction()
        self.pool.check_before_commit()
        try:
            connection.run("COMMIT")
        except apsw.Error as error:
            raise self.pool.error(error, connection) from error

    def _in_transaction(self) -> Connection:
        """The connection of the open transaction.

        :raises StorageError: if SQLite has already rolled back, as it does after some errors
        """
        if self._connection is None or not self._connection.sqlite.in_transaction:
            raise self.rolled_back()
        return self._connection

    def _was_committed(self, failure: BaseException) -> bool:
        is_over = self._connection is not None and not self._connection.sqlite.in_transaction
        return is_over and not isinstance(failure, StorageError)

    def _roll_back(self, error: BaseException) -> None:  # noqa: ARG002
        # If that fails, the pool closes the connection when it is released.
        if self._connection is not None and self._connection.sqlite.in_transaction:
            with suppress(apsw.Error):
                self._connection.run("ROLLBACK")

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                self.pool.release(connection)
        finally:
            self.pool.write_lock.release(self)

    def _set_savepoint(self, number: int) -> None:
        self.execute(f"SAVEPOINT savepoint_{number}")

    def _release_savepoint(self, number: int) -> None:
        self.execute(f"RELEASE savepoint_{number}")

    def _roll_back_to_savepoint(self, number: int) -> None:
        if self._connection is not None and self._connection.sqlite.in_transaction:
            self.execute(f"ROLLBACK TO savepoint_{number}")
            self.execute(f"RELEASE savepoint_{number}")

    def execute(self, sql: str, args: Bindings = ()) -> list[Row]:
        """Run a statement in this transaction and return its rows."""
        self.acquire_call()
        try:
            return self._in_transaction().run(sql, args).fetchall()
        except Errors as error:
            raise self.pool.error(error, self._connection) from error
        finally:
            self.release_call()

    @property
    def changes(self) -> int:
        """How many rows the last INSERT, UPDATE or DELETE changed."""
        return self._in_transaction().changes()
