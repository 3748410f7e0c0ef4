"""Transactions on PostgreSQL, and the calls that join the one they are in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import psycopg

from ...errors import StorageError
from ..transaction import Transaction, current_transaction
from .connection import Bindings, Connection, Row
from .pool import Pool

# A host that has vanished must not keep its locks.
_BEGIN = """
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10; SET LOCAL tcp_keepalives_count = 3; """


class PostgresqlTransaction(Transaction):
    """A transaction of one context, on a connection of its own.

    :param first: the statement that it begins with
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
        """The connection, which is in a transaction.

        :raises StorageError: when the server has rolled back by itself, or the connection is lost
        """
        if self._connection is None or not self._connection.is_in_transaction():
            raise self.rolled_back()
        return self._connection

    def _roll_back(self, error: BaseException) -> None:
        """The pool rolls back what is not committed on a connection that it is given back."""

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
                self._connection.close()  # Nothing of the transaction can be committed any more.


class Database:
    """Runs statements on a pool's connections, or in the transaction that the caller's context is in.

    :param storage: by which transactions are found
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
        """The one row of a statement that may write, run as a transaction of its own.

        :param nbytes: how large the values in it are
        """
        transaction = self._current()
        (row,) = self._pool.run(sql, args, nbytes) if transaction is None else transaction.run(sql, args, nbytes)
        return row

    def execute(self, sql: str) -> None:
        """Run statements that have neither arguments nor rows."""
        transaction = self._current()
        if transaction is None:
            self._pool.run(sql)
        else:
            transaction.run(sql)

    def transaction_after(self, first: str) -> AbstractContextManager[object]:
        """A transaction that begins with a statement, in one round trip; in another one, a savepoint."""
        outer = self._current()
        if outer is None:
            return PostgresqlTransaction(self._storage, self._pool, first).block()
        # A lock that the transaction has from its beginning need not be acquired again.
        return outer.savepoint(None if first == outer.first else partial(outer.run, first))

    def _current(self) -> PostgresqlTransaction | None:
        return current_transaction(self._storage, PostgresqlTransaction)
