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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Self, TypeVar

from ..errors import StorageBusy, StorageError
from .timeouts import longest_wait

begun: ContextVar[tuple[weakref.ref[Transaction], ...]] = ContextVar("flask_dash_store.transactions", default=())
"""The transactions that the present context is in, the outermost first. Where it is empty, no call has one to join."""

Call = Callable[[], object]


class Transaction(ABC):
    """A transaction of one context: of a thread, or of an asyncio task and the tasks it starts.

    A backend says how one begins, commits, rolls back and ends, and how it sets savepoints. Only the block itself keeps
    a transaction alive, so that one whose end was interrupted is rolled back when the block is gone.

    :param storage: by which :func:`current_transaction` finds it
    :param name: what error messages call the storage, without an article
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
        self._open_savepoints: list[int] = []
        self._is_doomed = self._is_committing = False
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
        """Whether a commit that raised this was made: a signal's handler may have raised right after it."""
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

    # The block. A signal's handler may raise before or after any instruction of it, as Celery's soft time limits do. So
    # what ends it can be called twice, and does no harm; and it is a generator, which is closed, and so ends it, when
    # the frame that was to leave it is gone (https://docs.python.org/3/reference/expressions.html#generator.close).

    @contextmanager
    def block(self) -> Iterator[Self]:
        """The transaction, from its beginning to its end."""
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
                error = None  # It refers to this frame, by its traceback, and would keep what is lost alive.

    def _end_calls(self) -> None:
        with self._call_lock:  # A task that this context has started may be in a call.
            self.is_open = False
        if self._is_doomed or self._open_savepoints:
            raise self.rolled_back()
        self._is_committing = True

    def _finish(self, error: BaseException | None) -> None:
        """Roll back if there was an error, and release what was acquired."""
        self.is_open = False
        if self._is_finished or self._is_forked():  # In a fork, its locks and its connection are the parent's.
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
        """A block inside this transaction that can be rolled back by itself.

        :param first: called when it has begun
        """
        self.acquire_call()  # Those of different threads must not overlap.
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
        except (StorageError, ValueError):  # It was interrupted, and whether it was set or released is not known.
            self._is_doomed = True

    @contextmanager
    def call(self) -> Iterator[None]:
        """A block for one call in this transaction: one thread at a time.

        :raises StorageBusy: when another thread's call takes longer than the timeout
        :raises StorageError: when the transaction has ended, or is the parent's of this process
        """
        self.acquire_call()
        try:
            yield
        finally:
            self.release_call()

    def acquire_call(self) -> None:
        """Begin such a block, which :meth:`release_call` ends."""
        if self._is_forked():  # A lock that another thread held when the process was forked is never released here.
            raise StorageError(
                f"This process was forked inside a transaction on the {self._name}, which is its parent's. "
                "Start processes before the transaction begins, or after it ends."
            )
        if not self._call_lock.acquire(timeout=longest_wait(self._timeout)):
            raise StorageBusy(
                f"Another thread's call in the same transaction on the {self._name} took longer than the "
                f"{self._timeout:g} seconds that USER_STORE_TIMEOUT (timeout=) lets a call wait. Do not wait for a "
                "thread inside a nested transaction().",
                limit=self._timeout,
            )
        if not self.is_open:
            self._call_lock.release()
            self._check_open()

    def release_call(self) -> None:
        with suppress(RuntimeError):  # An interrupted block may be closed by another thread, which does not have it.
            self._call_lock.release()

    def _check_open(self) -> None:
        if not self.is_open:
            raise StorageError(
                f"The transaction on the {self._name} that this task or thread was started in has ended. Wait for it "
                "inside the block."
            )

    def _is_forked(self) -> bool:
        return self._process != os.getpid()

    def rolled_back(self) -> StorageError:
        """The error for a call in a transaction that the server has rolled back already."""
        return StorageError(
            f"The whole transaction on the {self._name} has been rolled back because a call in it failed (see that "
            "error). Leave the block, and begin again."
        )

    def on_commit(self, call: Call) -> None:
        """Call something once what this transaction has done so far is committed."""
        self._on_commit.append(call)

    def on_rollback(self, call: Call) -> None:
        """Call something if what this transaction has done so far is rolled back."""
        self._on_rollback.append(call)


T = TypeVar("T", bound=Transaction)


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


def on_commit(storage: object, call: Call) -> None:
    """Call something once the transaction on a storage that the present context is in is committed; in none, now."""
    transaction = current_transaction(storage, Transaction)  # type: ignore[type-abstract]
    if transaction is None:
        call()
    else:
        transaction.on_commit(call)


def joined(storage: object, kind: type[T], begin: Callable[[], T]) -> AbstractContextManager[T]:
    """A block that gives the present context's transaction on a storage, at a savepoint; or one that begins here.

    :param begin: makes a transaction that has not begun
    """
    outer = current_transaction(storage, kind)
    return begin().block() if outer is None else outer.savepoint()


def _still_open() -> tuple[weakref.ref[Transaction], ...]:
    return tuple(reference for reference in begun.get() if (transaction := reference()) and transaction.is_open)


def _run(calls: list[Call]) -> None:
    for call in calls:
        call()
