"""Transactions on PostgreSQL, and the calls that join the one they are in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

import psycopg

from ...errors import StorageError
from ..transaction import Transaction as Base
from ..transaction import current_transaction
from .connection import Bindings, Row
from .pool import Pool


class Database:
    """Runs statements on a pool's connections, or inside the transaction that the caller's context is in."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def select(self, sql: str, args: Bindings) -> list[Row]:
        """The rows of a query that writes nothing."""
        transaction = self._current()
        if transaction is not None:
            return transaction.execute(sql, args)
        return self._run(sql, args, may_repeat=True)

    def call(self, sql: str, args: Bindings, nbytes: int = 0) -> Row:
        """The one row of a statement that may write, run as a transaction of its own.

        :param nbytes: how large the values in it are
        """
        transaction = self._current()
        rows = self._run(sql, args, nbytes) if transaction is None else transaction.execute(sql, args, nbytes)
        return rows[0] if rows else ()

    def _run(self, sql: str, args: Bindings, nbytes: int = 0, may_repeat: bool = False) -> list[Row]:
        connection, rows = self._pool.start(sql, args, nbytes, may_repeat)
        self._pool.release(connection)
        return rows

    def on_rollback(self, call: Callable[[], None]) -> None:
        """Have something called if the transaction that the caller's context is in, if any, is undone."""
        transaction = self._current()
        if transaction is not None:
            transaction.on_rollback(call)

    @contextmanager
    def transaction(self, *owners: str) -> Iterator[Transaction]:
        """A transaction in which nobody else writes to these owners; inside another one, a part that can fail alone.

        :raises StorageBusy: when others write to one of them for longer than the pool's timeout
        """
        # All lock in the same order, so that no two wait for each other.
        with self.transaction_after(f"SELECT lock_owner({_literal(owner)}, true)" for owner in sorted(owners)) as begun:
            yield begun

    @contextmanager
    def transaction_after(self, statements: Iterable[str]) -> Iterator[Transaction]:
        """A transaction that begins with these statements, in one round trip."""
        locks = list(statements)
        outer = self._current()
        if outer is not None:
            with outer.savepoint(locks):
                yield outer
        else:
            with Transaction(self._pool, locks) as transaction:
                yield transaction

    def _current(self) -> Transaction | None:
        return current_transaction(self._pool, Transaction)

    def close(self) -> None:
        self._pool.close()


class Transaction(Base):
    """A transaction of one context.

    :param locks: statements that are run when it begins
    """

    def __init__(self, pool: Pool, locks: list[str]) -> None:
        super().__init__(pool, f"the {pool.name}", pool.timeout)
        self.pool = pool
        self._locks = locks
        self._savepoints = itertools.count()

    def __enter__(self) -> Transaction:
        begin = "; ".join(["BEGIN ISOLATION LEVEL READ COMMITTED", *self._locks])
        self._connection, _ = self.pool.start(begin, may_repeat=True)
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_ours():
            self.is_open = False
            return  # This is a fork from inside the block. The transaction and its connection are the parent's.
        self._shut()
        is_committed = False
        try:
            if error is None:
                self._commit()
                is_committed = True
        finally:
            self.pool.release(self._connection)  # which rolls back what is not committed
            if not is_committed:
                self._run_on_rollback()

    def _commit(self) -> None:
        if not self._connection.is_in_transaction():
            raise self._undone()
        try:
            self._connection.run("COMMIT")
        except psycopg.Error as error:
            raise self.pool.fault(error, is_in_doubt=self._connection.closed) from error

    def execute(self, sql: str, args: Bindings | None = None, nbytes: int = 0) -> list[Row]:
        """Run a statement in this transaction and return its rows."""
        with self._one_at_a_time():
            self._check_open()
            if not self._connection.is_in_transaction():
                raise self._undone()
            return self._run(sql, args, nbytes)

    def _run(self, sql: str, args: Bindings | None = None, nbytes: int = 0) -> list[Row]:
        try:
            return self._connection.run(sql, args, nbytes)
        except psycopg.Error as error:
            raise self.pool.fault(error) from error

    def _undone(self) -> StorageError:
        return StorageError(
            f"The {self.pool.name} has undone the whole transaction when a call inside it failed (see that error). "
            "Leave the block, and begin anew."
        )

    @contextmanager
    def savepoint(self, locks: list[str]) -> Iterator[None]:
        """A part of this transaction that can fail by itself."""
        with self._one_at_a_time():  # Parts of different threads must not overlap.
            name = f"part_{next(self._savepoints)}"
            undone = len(self._on_rollback)
            self.execute(f"SAVEPOINT {name}")
            try:
                for lock in locks:
                    self.execute(lock)
                yield
                self.execute(f"RELEASE {name}")
            except BaseException:
                if self._is_ours() and self.is_open and self._connection.can_roll_back():
                    self._run(f"ROLLBACK TO {name}; RELEASE {name}")
                    self._run_on_rollback(undone)
                raise


def _literal(text: str) -> str:
    """Text as SQL has it. Several statements in one round trip take no arguments."""
    return "'" + text.replace("'", "''") + "'"
