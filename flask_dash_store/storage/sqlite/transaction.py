"""A write transaction on SQLite."""

from __future__ import annotations

from contextlib import suppress

import apsw

from ...errors import StorageError
from ..transaction import Transaction as Base
from .connection import Bindings, Connection, Errors, Row
from .pool import Pool


class Transaction(Base):
    """A write transaction of one context.

    It acquires SQLite's write lock when it begins, so that what it reads cannot change before it writes.

    :param storage: by which the calls of its context find it
    :param wait: whether to wait for other writers, for the pool's timeout at most
    """

    _connection: Connection | None = None

    def __init__(self, storage: object, pool: Pool, wait: bool = True) -> None:
        super().__init__(storage, pool.name, pool.timeout)
        self.pool = pool
        self._wait = wait

    def _begin(self) -> None:
        pool = self.pool
        timeout = pool.acquire_write_lock(pool.timeout if self._wait else 0.0)
        pool.write_lock.hold(self)
        self._connection = connection = pool.acquire()
        try:
            connection.backoff.timeout = timeout
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
        """The connection, which is in a transaction.

        :raises StorageError: when SQLite has rolled back by itself, as it does after some faults
        """
        if self._connection is None or not self._connection.sqlite.in_transaction:
            raise self.rolled_back()
        return self._connection

    def _was_committed(self, failure: BaseException) -> bool:
        is_over = self._connection is not None and not self._connection.sqlite.in_transaction
        return is_over and not isinstance(failure, StorageError)

    def _roll_back(self, error: BaseException) -> None:  # noqa: ARG002
        # A connection that cannot is closed when it is released.
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
