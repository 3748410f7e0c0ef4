"""What a transaction is on every storage: a block of one context, which the calls made in it join.

It is found by a context variable, not by the thread: the coroutines of an async callback share a thread, and a
transaction that one of them has begun must not take in the calls of the others.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Generic, Self, TypeVar

from ..errors import StorageBusy, StorageError

begun: ContextVar[tuple[weakref.ref[Transaction], ...]] = ContextVar("flask_dash_store.transactions", default=())
"""The transactions that the present context is in, the outermost first. Where it is empty, no call has one to join."""

Call = Callable[[], object]


class Transaction(ABC):
    """A transaction of one context: of a thread, or of an asyncio task and the tasks it starts.

    A backend says how one begins, commits, rolls back and ends, and how it sets savepoints. Only the block itself keeps
    a transaction alive, so that one whose end was interrupted is rolled back when the block is gone.

    :param storage: what it is on, by which :func:`current_transaction` finds it
    :param name: what error messages call that
    :param timeout: seconds that a thread waits for another one that is in the same transaction
    """

    _is_finished = True  # until it has been made, which can be interrupted too

    def __init__(self, storage: object, name: str, timeout: float) -> None:
        self.storage = storage
        self.is_open = False
        self._name = name
        self._timeout = timeout
        self._process = os.getpid()
        self._call_lock = threading.RLock()
        self._savepoints = itertools.count(1)
        self._on_commit: list[Call] = []
        self._on_rollback: list[Call] = []
        self._is_finished = False

    # What a backend adds

    @abstractmethod
    def _begin(self) -> None:
        """Acquire what the transaction needs, and begin it. On an error nothing stays acquired."""

    @abstractmethod
    def _commit(self) -> None:
        """Commit. An error means that nothing was, or that it is not known, and says which."""

    def _was_committed(self, failure: BaseException) -> bool:  # noqa: ARG002
        """Whether a commit that ended so was made all the same: a signal's handler may have raised right after it."""
        return False

    @abstractmethod
    def _roll_back(self, error: BaseException) -> None:
        """Roll back, if it has begun, because of this error. It raises nothing."""

    @abstractmethod
    def _release(self) -> None:
        """Release what was acquired, which may be nothing, after a commit or a rollback. It raises nothing."""

    @abstractmethod
    def _set_savepoint(self, number: int) -> None: ...

    @abstractmethod
    def _release_savepoint(self, number: int) -> None: ...

    @abstractmethod
    def _roll_back_to_savepoint(self, number: int) -> None:
        """Roll back to a savepoint, and release it. It raises nothing when the transaction is rolled back already."""

    # The block

    def __enter__(self) -> Self:
        try:
            self._begin()
            self.is_open = True
            begun.set((*_still_open(), weakref.ref(self)))
        except BaseException as error:
            self._finish(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_forked():  # The transaction, its locks and its connection are the parent's.
            self.is_open = False
            return
        try:
            with self._call_lock:  # A task that this context has started may be in a call.
                self.is_open = False
            begun.set(_still_open())
            if error is None:
                self._commit()
        except BaseException as failure:
            if not self._was_committed(failure):
                error = failure
            raise
        finally:
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        """Roll back if there was an error, and release what was acquired. The first call counts."""
        if self._is_finished or self._is_forked():
            return
        self.is_open = False
        try:
            if error is not None:
                self._roll_back(error)
        finally:
            self._release()
            self._is_finished = True
        _run(self._on_commit if error is None else self._on_rollback)

    def __del__(self) -> None:
        # A signal's handler that raises can keep __exit__ from its first instruction, and then no one else finishes.
        self._finish(InterruptedError())

    def savepoint(self) -> Savepoint[Self]:
        """A block inside this transaction that can be rolled back by itself. It gives the transaction."""
        return Savepoint(self)

    def enter_savepoint(self) -> tuple[int, int, int]:
        """Set a savepoint. Returns what :meth:`exit_savepoint` needs."""
        self.acquire_call()  # Savepoints of different threads must not overlap.
        try:
            number = next(self._savepoints)
            self._set_savepoint(number)
        except BaseException:
            self.release_call()
            raise
        return number, len(self._on_commit), len(self._on_rollback)

    def exit_savepoint(self, mark: tuple[int, int, int], error: BaseException | None) -> None:
        """Release a savepoint, or on an error roll back to it."""
        if self._is_forked():
            return
        try:
            if error is None:
                self._check_open()
                self._release_savepoint(mark[0])
        except BaseException as failure:
            error = failure
            raise
        finally:
            try:
                if error is not None:
                    self._roll_back_to(*mark)
            finally:
                self.release_call()

    def _roll_back_to(self, number: int, committed: int, rolled_back: int) -> None:
        self._roll_back_to_savepoint(number)
        del self._on_commit[committed:]
        calls = self._on_rollback[rolled_back:]
        del self._on_rollback[rolled_back:]
        _run(calls)

    def call(self) -> AbstractContextManager[None]:
        """A block for one call in this transaction: one thread at a time.

        :raises StorageBusy: when another thread's call takes longer than the timeout
        :raises StorageError: when the transaction has ended, or is the parent's of this process
        """
        return _Call(self)

    def acquire_call(self) -> None:
        """Begin such a block, which :meth:`release_call` ends."""
        if self._is_forked():  # A lock that another thread held when the process was forked is never released here.
            raise StorageError(
                f"This process was forked inside a transaction on {self._name}, which is its parent's. "
                "Start processes before the transaction begins, or after it ends."
            )
        if not self._call_lock.acquire(timeout=self._timeout):
            raise StorageBusy(
                f"Another thread's call in the same transaction on {self._name} took longer than the "
                f"{self._timeout:g} seconds that USER_STORE_TIMEOUT (timeout=) lets a call wait. Do not wait for a "
                "thread inside a nested transaction().",
                limit=self._timeout,
            )
        if not self.is_open:
            self._call_lock.release()
            self._check_open()

    def release_call(self) -> None:
        self._call_lock.release()

    def _check_open(self) -> None:
        if not self.is_open:
            raise StorageError(
                f"The transaction on {self._name} that this task or thread was started in has ended. Wait for it "
                "inside the block."
            )

    def _is_forked(self) -> bool:
        return self._process != os.getpid()

    def rolled_back(self) -> StorageError:
        """The error for a call in a transaction that the server has rolled back already."""
        return StorageError(
            f"The whole transaction on {self._name} has been rolled back because a call in it failed (see that error). "
            "Leave the block, and begin again."
        )

    def on_commit(self, call: Call) -> None:
        """Call something once what this transaction has done so far is committed."""
        self._on_commit.append(call)

    def on_rollback(self, call: Call) -> None:
        """Call something if what this transaction has done so far is rolled back."""
        self._on_rollback.append(call)


T = TypeVar("T", bound=Transaction)


# Context managers are classes here: one made from a generator can be interrupted, by a signal's handler that raises,
# after its block was entered and before the caller knows of it (https://docs.python.org/3/library/signal.html).
class Savepoint(Generic[T]):
    """A block inside a transaction that can be rolled back by itself."""

    def __init__(self, transaction: T) -> None:
        self._transaction = transaction

    def __enter__(self) -> T:
        self._mark = self._transaction.enter_savepoint()
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transaction.exit_savepoint(self._mark, error)


class _Call:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __enter__(self) -> None:
        self._transaction.acquire_call()

    def __exit__(self, *_: object) -> None:
        self._transaction.release_call()


def current_transaction(storage: object, kind: type[T]) -> T | None:
    """The transaction on a storage that the present context is in; None when it is in none."""
    for reference in begun.get():
        transaction = reference()
        if isinstance(transaction, kind) and transaction.storage is storage and transaction.is_open:
            return transaction
    return None


def on_rollback(storage: object, call: Call) -> None:
    """Call something if the transaction on a storage that the present context is in, if any, is rolled back."""
    transaction = current_transaction(storage, Transaction)  # type: ignore[type-abstract]
    if transaction is not None:
        transaction.on_rollback(call)


def joined(storage: object, kind: type[T], begin: Callable[[], T]) -> T | Savepoint[T]:
    """A block that gives the present context's transaction on a storage, at a savepoint; or one that begins here.

    :param begin: makes a transaction that has not begun
    """
    outer = current_transaction(storage, kind)
    return begin() if outer is None else outer.savepoint()


def busy(name: str, timeout: float) -> StorageBusy:
    """The error for a lock that others held for longer than a call may wait."""
    return StorageBusy(
        f"{name} was in use by others for longer than the {timeout:g} seconds that USER_STORE_TIMEOUT (timeout=) lets "
        "a call wait. Keep transaction() blocks short, or raise it.",
        limit=timeout,
    )


def _still_open() -> tuple[weakref.ref[Transaction], ...]:
    return tuple(reference for reference in begun.get() if (transaction := reference()) and transaction.is_open)


def _run(calls: list[Call]) -> None:
    for call in calls:
        call()
