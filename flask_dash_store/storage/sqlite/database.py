"""One SQLite database as the rest of the storage sees it: queries, and transactions that they join by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import apsw

from ..transaction import current_transaction
from .pool import Pool
from .transaction import Bindings, Row, Transaction


class Database:
    """Runs statements on a pool's connections, or inside the transaction that the caller's context is in."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def select(self, sql: str, args: Bindings = ()) -> list[Row]:
        """All rows of a query."""
        transaction = current_transaction(self._pool, Transaction)
        if transaction is not None:
            return transaction.execute(sql, args)
        connection = self._pool.acquire()
        try:
            return connection.execute(sql, args).fetchall()
        except apsw.BusyError:
            return self._pool.retry(connection, lambda: connection.execute(sql, args).fetchall(), self._pool.timeout)
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._pool.fault(error) from error
        finally:
            self._pool.release(connection)

    def select_one(self, sql: str, args: Bindings = ()) -> Row | None:
        """The row of a query that gives one at most; None when it gives none."""
        transaction = current_transaction(self._pool, Transaction)
        if transaction is not None:
            rows = transaction.execute(sql, args)
            return rows[0] if rows else None
        connection = self._pool.acquire()
        try:
            row: Row | None = connection.execute(sql, args).fetchone()
            return row
        except apsw.BusyError:
            return self._pool.retry(connection, lambda: connection.execute(sql, args).fetchone(), self._pool.timeout)
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._pool.fault(error) from error
        finally:
            self._pool.release(connection)

    def change(self, sql: str, args: Bindings) -> int:
        """Run one statement that writes, as a transaction of its own. Returns how many rows it changed.

        :raises StorageBusy: when others write for longer than the pool's timeout
        """
        transaction = current_transaction(self._pool, Transaction)
        if transaction is not None:
            transaction.execute(sql, args)
            return transaction.changes
        pool = self._pool
        timeout = pool.acquire_writer(pool.timeout)
        try:
            connection = pool.acquire()
            try:
                connection.execute(sql, args)
                changes = connection.changes()
            except apsw.BusyError:
                changes = pool.retry(connection, partial(_change, connection, sql, args), timeout)
            except apsw.Error as error:
                raise pool.fault(error, connection) from error
            finally:
                pool.release(connection)
        finally:
            pool.writer.release()
        pool.checkpoint_if_overdue()
        return changes

    def on_rollback(self, call: Callable[[], None]) -> None:
        """Have something called if the transaction that the caller's context is in, if any, is undone."""
        transaction = current_transaction(self._pool, Transaction)
        if transaction is not None:
            transaction.then(on_rollback=call)

    @contextmanager
    def transaction(self, wait: bool = True) -> Iterator[Transaction]:
        """A write transaction; inside another one of the same context, a part of it that can fail by itself.

        :param wait: whether to wait for other writers
        :raises StorageBusy: when others write for longer than the pool's timeout, or at all
        """
        outer = current_transaction(self._pool, Transaction)
        if outer is not None:
            with outer.savepoint():
                yield outer
        else:
            with Transaction(self._pool, wait) as transaction:
                yield transaction

    @contextmanager
    def snapshot(self, meanwhile: Callable[[], None]) -> Iterator[apsw.Connection]:
        """A connection that sees what is stored now, whatever is written later.

        :param meanwhile: called at that point in time, while nobody writes
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

    def is_in_transaction(self) -> bool:
        """Whether the caller's context is in a transaction."""
        return current_transaction(self._pool, Transaction) is not None

    @property
    def is_untidy(self) -> bool:
        return self._pool.is_checkpoint_due

    def tidy(self) -> None:
        """Make a checkpoint if one is due."""
        self._pool.checkpoint_if_due()

    def checkpoint(self, truncate: bool = False) -> None:
        """Copy the WAL into the database, as far as readers let it, so that the next write begins it anew.

        :param truncate: whether to wait for readers and writers, and leave the WAL empty
        """
        self._pool.checkpoint(truncate)

    def close(self) -> None:
        self._pool.close()


def _change(connection: apsw.Connection, sql: str, args: Bindings) -> int:
    connection.execute(sql, args)
    return connection.changes()
