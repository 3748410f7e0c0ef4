"""A write transaction, which a fork does not cut in two."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import apsw

from ...errors import StorageError
from ..transaction import Transaction as Base
from ..transaction import current_transaction
from .pool import Pool, pools

Row = tuple[Any, ...]
Bindings = Sequence[Any] | Mapping[str, Any]


class Transaction(Base):
    """A write transaction of one context.

    It takes SQLite's write lock when it begins, so that what it reads cannot change before it writes.

    :param wait: whether to wait for other writers, for the pool's timeout at most
    """

    def __init__(self, pool: Pool, wait: bool) -> None:
        super().__init__(pool, pool.name, pool.timeout)
        self.pool = pool
        self._timeout = pool.timeout if wait else 0.0
        self._writer = pool.writer
        self._savepoints = itertools.count()
        self._on_commit: list[Callable[[], None]] = []

    def __enter__(self) -> Transaction:
        timeout = self.pool.acquire_writer(self._timeout)
        try:
            self._connection = self.pool.acquire()
            try:
                self._begin(timeout)
                self._open()
            except BaseException:
                self.is_open = False
                self.pool.release(self._connection)
                raise
        except BaseException:
            self._writer.release()
            raise
        return self

    def _begin(self, timeout: float) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            self.pool.retry(self._connection, lambda: self._connection.execute("BEGIN IMMEDIATE"), timeout)
        except apsw.Error as error:
            raise self.pool.fault(error, self._connection) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_ours():
            self.is_open = False
            return  # This is a fork from inside the block. The transaction and its connection are the parent's.
        try:
            self._shut()
            if error is None:
                self._commit()
            else:
                self._roll_back()
        finally:
            try:
                self.pool.release(self._connection)
            finally:
                self._writer.release()
        for call in self._on_commit:
            call()
        self.pool.checkpoint_if_overdue()

    def _commit(self) -> None:
        if not self._connection.in_transaction:
            self._roll_back()
            raise self._undone()
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            fault = self.pool.fault(error, self._connection)
            self._roll_back()
            raise fault from error

    def _roll_back(self) -> None:
        # After some faults SQLite has rolled back by itself. A connection that cannot is closed when released.
        if self._connection.in_transaction:
            with suppress(apsw.Error):
                self._connection.execute("ROLLBACK")
        self._on_commit.clear()
        self._run_on_rollback()

    def then(self, on_commit: Callable[[], None] | None = None, on_rollback: Callable[[], None] | None = None) -> None:
        """Have something done once what this transaction has done so far is committed, or is undone."""
        if on_commit is not None:
            self._on_commit.append(on_commit)
        if on_rollback is not None:
            self.on_rollback(on_rollback)

    def execute(self, sql: str, args: Bindings = ()) -> list[Row]:
        """Run a statement in this transaction and return its rows."""
        self._acquire_call()
        try:
            self._check_open()
            if not self._connection.in_transaction:
                raise self._undone()
            return self._connection.execute(sql, args).fetchall()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self.pool.fault(error, self._connection) from error
        finally:
            self._one_call.release()

    def _undone(self) -> StorageError:
        return StorageError(
            f"The storage {self.pool.name} has undone the whole transaction when a call inside it failed (see that "
            "error). Leave the block, and begin anew."
        )

    @property
    def changes(self) -> int:
        """How many rows the last INSERT, UPDATE or DELETE changed."""
        return self._connection.changes()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part of this transaction that can fail by itself."""
        self._acquire_call()  # Parts of different threads must not overlap.
        try:
            name = f"part_{next(self._savepoints)}"
            committed, undone = len(self._on_commit), len(self._on_rollback)
            self.execute(f"SAVEPOINT {name}")
            try:
                yield
            except BaseException:
                if self._is_ours() and self.is_open and self._connection.in_transaction:
                    self.execute(f"ROLLBACK TO {name}")
                    self.execute(f"RELEASE {name}")
                    del self._on_commit[committed:]
                    self._run_on_rollback(undone)
                raise
            self.execute(f"RELEASE {name}")
        finally:
            self._one_call.release()


class _Fork:
    """Holds all pools still while the process forks."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._held: list[Pool] = []

    def before(self) -> None:
        self._one_at_a_time.acquire()
        self._held = []
        for pool in list(pools):
            pool.hold_for_fork()
            self._held.append(pool)
        for pool in self._held:
            # A fork inside a transaction of its own would wait for itself.
            pool.drain_for_fork(wait=current_transaction(pool, Transaction) is None)

    def after_in_parent(self) -> None:
        try:
            for pool in self._held:
                pool.after_fork_in_parent()
        finally:
            self._one_at_a_time.release()

    def after_in_child(self) -> None:
        for pool in self._held:
            pool.after_fork_in_child()
        self._one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    _fork = _Fork()
    os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)
