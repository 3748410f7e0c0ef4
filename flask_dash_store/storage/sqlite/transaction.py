"""A write transaction on SQLite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import apsw

from ..transaction import Transaction as Base
from .connection import Connection, Errors
from .pool import Pool

Row = tuple[Any, ...]
Bindings = Sequence[Any] | Mapping[str, Any]


class Transaction(Base):
    """A write transaction of one context.

    It takes SQLite's write lock when it begins, so that what it reads cannot change before it writes.

    :param storage: by which the calls of its context find it
    :param wait: whether to wait for other writers, for the pool's timeout at most
    """

    _connection: Connection

    def __init__(self, storage: object, pool: Pool, wait: bool = True) -> None:
        super().__init__(storage, pool.name, pool.timeout)
        self.pool = pool
        self._wait = wait

    def _begin(self) -> None:
        pool = self.pool
        timeout = pool.acquire_write_lock(pool.timeout if self._wait else 0.0)
        try:
            self._connection = connection = pool.acquire()
            try:
                connection.timeout = timeout
                connection.execute("BEGIN IMMEDIATE")
            except BaseException as error:
                pool.release(connection)
                if isinstance(error, apsw.Error):
                    raise pool.error(error, connection) from error
                raise
            finally:
                connection.timeout = pool.timeout
            pool.hold(self)
        except BaseException:
            pool.release_write_lock()
            raise

    def _commit(self) -> None:
        if not self._connection.in_transaction:
            raise self.rolled_back()
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            raise self.pool.error(error, self._connection) from error

    def _roll_back(self, error: BaseException) -> None:  # noqa: ARG002
        # After some faults SQLite has rolled back by itself. A connection that cannot is closed when it is released.
        if self._connection.in_transaction:
            with suppress(apsw.Error):
                self._connection.execute("ROLLBACK")

    def _release(self) -> None:
        try:
            self.pool.release(self._connection)
        finally:
            self.pool.release_write_lock()

    def _set_savepoint(self, number: int) -> None:
        self.execute(f"SAVEPOINT savepoint_{number}")

    def _release_savepoint(self, number: int) -> None:
        self.execute(f"RELEASE savepoint_{number}")

    def _roll_back_to_savepoint(self, number: int) -> None:
        if self.is_open and self._connection.in_transaction:
            self.execute(f"ROLLBACK TO savepoint_{number}")
            self.execute(f"RELEASE savepoint_{number}")

    def execute(self, sql: str, args: Bindings = ()) -> list[Row]:
        """Run a statement in this transaction and return its rows."""
        self.acquire_call()
        try:
            if not self._connection.in_transaction and self.is_open:
                raise self.rolled_back()
            return self._connection.execute(sql, args).fetchall()
        except Errors as error:
            raise self.pool.error(error, self._connection) from error
        finally:
            self.release_call()

    @property
    def changes(self) -> int:
        """How many rows the last INSERT, UPDATE or DELETE changed."""
        return self._connection.changes()
