"""Transactions on PostgreSQL, and the calls that join them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import psycopg

from ...errors import StorageError
from ..transaction import Transaction, current_transaction
from .connection import Bindings, Connection, Row
from .pool import Pool

# The keepalives release the locks of a host that has vanished.
_BEGIN = """
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10; SET LOCAL tcp_keepalives_count = 3; """


class PostgresqlTransaction(Transaction):
    """A transaction of one context, on its own connection.

    :param first: the first statement, which is sent together with BEGIN
    """

    _connection: Connection | None = None

    def __init__(self, storage: object, pool: Pool, first: str) -> None:
        self.first = first
        self._pool = pool
        super().__init__(storage, pool.name, pool.timeout)

    def run(self, sql: str, args: Bindings | None = None, nbytes: int = 0) -> list[Row]:
        """Run a statement in this transaction and return its rows."""
        with self.call():
            connection = self._in_transaction()
            try:
                return connection.run(sql, args, nbytes)
            except psycopg.Error as error:
                raise self._pool.fault(error) from error

    def _begin(self) -> None:
        self._connection, _ = self._pool.start(_BEGIN + self.first, may_repeat=True)

    def _commit(self) -> None:
        connection = self._in_transaction()
        try:
            connection.run("COMMIT")
        except psycopg.Error as error:
            raise self._pool.fault(error, is_in_doubt=connection.closed) from error

    def _was_committed(self, failure: BaseException) -> bool:
        return not isinstance(failure, StorageError) and self._connection is not None and self._connection.is_idle()

    def _in_transaction(self) -> Connection:
        """The connection of the open transaction.

        :raises StorageError: if the server has already rolled back, or the connection was lost
        """
        if self._connection is None or not self._connection.is_in_transaction():
            raise self.rolled_back()
        return self._connection

    def _roll_back(self, error: BaseException) -> None:
        """Do nothing: the pool rolls back when the connection is released."""

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    def _set_savepoint(self, number: int) -> None:
        self.run(f"SAVEPOINT savepoint_{number}")

    def _release_savepoint(self, number: int) -> None:
        self.run(f"RELEASE savepoint_{number}")

    def _roll_back_to_savepoint(self, number: int) -> None:
        if self._connection is not None and self._connection.can_roll_back():
            try:
                self._connection.run(f"ROLLBACK TO savepoint_{number}; RELEASE savepoint_{number}")
            except psycopg.Error:
                self._connection.close()  # So that nothing of the transaction can be committed.


class Database:
    """Runs statements on a pool's connections, or in the current context's transaction.

    :param storage: the storage, by which transactions are found
    """

    def __init__(self, storage: object, pool: Pool) -> None:
        self._storage = storage
        self._pool = pool

    def select(self, sql: str, args: Bindings = ()) -> list[Row]:
        """The rows of a query that writes nothing."""
        transaction = self._current()
        if transaction is not None:
            return transaction.run(sql, args)
        return self._pool.run(sql, args, may_repeat=True)

    def call(self, sql: str, args: Bindings, nbytes: int = 0) -> Row:
        """Run a statement that may write, as its own transaction, and return its only row.

        :param nbytes: the size of the values in it
        """
        transaction = self._current()
        (row,) = self._pool.run(sql, args, nbytes) if transaction is None else transaction.run(sql, args, nbytes)
        return row

    def execute(self, sql: str) -> None:
        """Run statements without arguments and rows."""
        transaction = self._current()
        if transaction is None:
            self._pool.run(sql)
        else:
            transaction.run(sql)

    def transaction_after(self, first: str) -> AbstractContextManager[object]:
        """A transaction that begins with a statement, in one round trip; in the current one, a savepoint."""
        outer = self._current()
        if outer is None:
            return PostgresqlTransaction(self._storage, self._pool, first).block()
        # If the transaction began with the same statement, it already holds the lock.
        return outer.savepoint(None if first == outer.first else partial(outer.run, first))

    def _current(self) -> PostgresqlTransaction | None:
        return current_transaction(self._storage, PostgresqlTransaction)
