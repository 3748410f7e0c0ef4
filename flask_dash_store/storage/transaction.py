"""Transactions, for all storages: a block, which the calls of the same context join.

The context is that of a context variable, not the thread. The coroutines of an async callback share a thread, and the
transaction of one of them must not include the calls of the others.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Self, TypeVar

from ..errors import StorageBusy, StorageError
from .timeouts import longest_wait

begun: ContextVar[tuple[weakref.ref[Transaction], ...]] = ContextVar("flask_dash_store.transactions", default=())
"""The transactions of the current context, the outermost first."""

Call = Callable[[], object]


class Transaction(ABC):
    """A transaction of one context: of a thread, or of an asyncio task and the tasks it starts.

    A backend defines how one begins, commits, rolls back and ends, and how it sets savepoints. Only the block itself
    keeps a transaction alive, so that one whose end was interrupted is rolled back when the block is garbage-collected.

    :param storage: the storage, by which :func:`current_transaction` finds it
    :param name: the storage's name in error messages, without an article
    :param timeout: seconds that a thread waits for another thread in the same transaction
    """

    _is_finished = True  # Until __init__ has run, which can be interrupted, too.

    def __init__(self, storage: object, name: str, timeout: float) -> None:
        self.storage = storage
        self.is_open = False
        self._name = name
        self._timeout = timeout
        self._process = os.getpid()
        self._call_lock = threading.RLock()
        self._savepoints = itertools.count(1)
        self._open_savepoints: list[int] = []
        self._is_doomed = self._is_committing = False
        self._on_commit: list[Call] = []
        self._on_rollback: list[Call] = []
        self._is_finished = False

    # For backends

    @abstractmethod
    def _begin(self) -> None:
        """Acquire what the transaction needs, and begin it. If it raises, :meth:`_release` is still called."""

    @abstractmethod
    def _commit(self) -> None:
        """Commit. An error says whether nothing was committed, or whether that is not known."""

    def _was_committed(self, failure: BaseException) -> bool:  # noqa: ARG002
        """Whether the commit succeeded although this was raised: by a signal handler, right after it."""
        return False

    @abstractmethod
    def _roll_back(self, error: BaseException) -> None:
        """Roll back because of this error, if the transaction has begun. It must not raise."""

    @abstractmethod
    def _release(self) -> None:
        """Release what was acquired, if anything, after a commit or a rollback. It must not raise."""

    @abstractmethod
    def _set_savepoint(self, number: int) -> None: ...

    @abstractmethod
    def _release_savepoint(self, number: int) -> None: ...

    @abstractmethod
    def _roll_back_to_savepoint(self, number: int) -> None:
        """Roll back to a savepoint, and release it. Do nothing if the transaction is already rolled back."""

    # The block. A signal handler may raise before or after any of its instructions, as Celery's soft time limits do. So
    # it can be ended twice without harm. And it is a generator: if it was never left, it is closed, which ends it, when
    # its frame is garbage-collected (https://docs.python.org/3/reference/expressions.html#generator.close).

    @contextmanager
    def block(self) -> Iterator[Self]:
        """Begin the transaction, run the block, and commit or roll back."""
        error: BaseException | None = None
        try:
            self._begin()
            self.is_open = True
            begun.set((*_still_open(), weakref.ref(self)))
            yield self
            if not self._is_forked():
                self._end_calls()
                self._commit()
        except BaseException as failure:
            error = None if self._is_committing and self._was_committed(failure) else failure
            raise
        finally:
            try:
                self._finish(error)
            finally:
                self._finish(error)
                error = None  # Its traceback refers to this frame, and would keep it alive.

    def _end_calls(self) -> None:
        with self._call_lock:  # A task started in this context may be in a call.
            self.is_open = False
        if self._is_doomed or self._open_savepoints:
            raise self.rolled_back()
        self._is_committing = True

    def _finish(self, error: BaseException | None) -> None:
        """Roll back if there was an error, and release what was acquired."""
        self.is_open = False
        if self._is_finished or self._is_forked():  # In a fork, the locks and the connection belong to the parent.
            return
        begun.set(_still_open())
        try:
            if error is not None:
                self._roll_back(error)
        finally:
            self._release()
            self._is_finished = True
        _run(self._on_commit if error is None else self._on_rollback)

    @contextmanager
    def savepoint(self, first: Call | None = None) -> Iterator[Self]:
        """A block inside this transaction that can be rolled back alone.

        :param first: called after it has begun
        """
        self.acquire_call()  # Savepoints of different threads must not overlap.
        number = next(self._savepoints)
        committed, rolled_back = len(self._on_commit), len(self._on_rollback)
        try:
            self._open_savepoints.append(number)
            self._set_savepoint(number)
            if first is not None:
                first()
            yield self
            if not self._is_forked():
                self._release_innermost(number)
        except BaseException:
            if not self._is_forked():
                self._roll_back_to(number)
                del self._on_commit[committed:]
                calls = self._on_rollback[rolled_back:]
                del self._on_rollback[rolled_back:]
                _run(calls)
            raise
        finally:
            self.release_call()

    def _release_innermost(self, number: int) -> None:
        self._check_open()
        if self._is_doomed or self._open_savepoints[-1] != number:
            raise self.rolled_back()
        self._release_savepoint(number)
        self._open_savepoints.pop()

    def _roll_back_to(self, number: int) -> None:
        if not self.is_open:
            return
        try:
            self._roll_back_to_savepoint(number)
            del self._open_savepoints[self._open_savepoints.index(number) :]
        except (StorageError, ValueError):  # Interrupted: it is not known whether the savepoint exists.
            self._is_doomed = True

    @contextmanager
    def call(self) -> Iterator[None]:
        """A block for one call in this transaction, by one thread at a time.

        :raises StorageBusy: if another thread's call takes longer than the timeout
        :raises StorageError: if the transaction has ended, or belongs to the parent process
        """
        self.acquire_call()
        try:
            yield
        finally:
            self.release_call()

    def acquire_call(self) -> None:
        """Begin such a block. :meth:`release_call` ends it."""
        if self._is_forked():  # The lock may have been held by another thread of the parent, which does not exist here.
            raise StorageError(
                f"This process was forked inside a transaction on the {self._name}, which belongs to its parent. Start "
                "processes before the transaction begins, or after it has ended."
            )
        if not self._call_lock.acquire(timeout=longest_wait(self._timeout)):
            raise StorageBusy(
                f"Another thread's call in the same transaction on the {self._name} took longer than the "
                f"{self._timeout:g} seconds that USER_STORE_TIMEOUT (timeout=) lets a call wait. Do not wait for "
                "another thread inside a nested transaction().",
                limit=self._timeout,
            )
        if not self.is_open:
            self._call_lock.release()
            self._check_open()

    def release_call(self) -> None:
        with suppress(
            RuntimeError
        ):  # If it was interrupted, another thread may close it, which does not hold the lock.
            self._call_lock.release()

    def _check_open(self) -> None:
        if not self.is_open:
            raise StorageError(
                f"The transaction on the {self._name} in which this task or thread was started has ended. Wait for the "
                "task or thread inside the block."
            )

    def _is_forked(self) -> bool:
        return self._process != os.getpid()

    def rolled_back(self) -> StorageError:
        """The error for a call in a transaction that is already rolled back."""
        return StorageError(
            f"The whole transaction on the {self._name} has been rolled back, because a call in it failed (see the "
            "earlier error). Leave the block, and begin a new transaction."
        )

    def on_commit(self, call: Call) -> None:
        """Call a function once this transaction is committed, unless its savepoint is rolled back first."""
        self._on_commit.append(call)

    def on_rollback(self, call: Call) -> None:
        """Call a function if this transaction, or its current savepoint, is rolled back."""
        self._on_rollback.append(call)


T = TypeVar("T", bound=Transaction)


def current_transaction(storage: object, cls: type[T]) -> T | None:
    """The current context's transaction on a storage; None if there is none."""
    for reference in begun.get():
        transaction = reference()
        if isinstance(transaction, cls) and transaction.storage is storage and transaction.is_open:
            return transaction
    return None


def on_rollback(storage: object, call: Call) -> None:
    """Call a function if the current context's transaction on a storage is rolled back. Without one, do nothing."""
    transaction = current_transaction(storage, Transaction)  # type: ignore[type-abstract]
    if transaction is not None:
        transaction.on_rollback(call)


def on_commit(storage: object, call: Call) -> None:
    """Call a function once the current context's transaction on a storage is committed. Without one, call it now."""
    transaction = current_transaction(storage, Transaction)  # type: ignore[type-abstract]
    if transaction is None:
        call()
    else:
        transaction.on_commit(call)


def joined(storage: object, cls: type[T], begin: Callable[[], T]) -> AbstractContextManager[T]:
    """A savepoint in the current context's transaction on a storage; without one, a new transaction.

    :param begin: creates a transaction that has not begun
    """
    outer = current_transaction(storage, cls)
    return begin().block() if outer is None else outer.savepoint()


def _still_open() -> tuple[weakref.ref[Transaction], ...]:
    return tuple(reference for reference in begun.get() if (transaction := reference()) and transaction.is_open)


def _run(calls: list[Call]) -> None:
    for call in calls:
        call()
