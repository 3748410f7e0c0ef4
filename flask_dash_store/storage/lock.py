"""The lock of one process's writers, which stays usable when a signal handler raises.

A signal handler may raise an exception, such as Celery's soft time limit, between any two instructions: after a lock
was acquired, but before that was recorded, or before the first instruction of the code that releases it. So this lock
is an RLock, which knows its owner. Releasing it twice does no harm, and a thread that has left it acquired gets it
again.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import StorageBusy
from .timeouts import busy, longest_wait
from .transaction import Transaction

# Seconds between two attempts to acquire a lock on which this thread must not block.
POLL = 0.001


class Lock:
    """A lock for one thread at a time.

    :param name: the name of what it protects, in error messages, without an article
    :param timeout: the seconds for which a call waits, in error messages
    """

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._making = threading.Lock()
        self._lock: Any = None  # Any: the private methods that threading.Condition uses have no types.

    def acquire(self, timeout: float) -> float:
        """Acquire the lock.

        :param timeout: seconds to wait for other threads
        :returns: how many seconds of the timeout are left
        :raises StorageBusy: if the lock was not released within the timeout
        """
        # Created on first use, when gevent has patched threading if it ever does.
        lock = self._lock or self._make()
        if lock._is_owned():  # noqa: SLF001  # As in threading.Condition; there is no public way.
            self._release_leftover()
        if not lock.acquire(blocking=False):
            timeout, began = longest_wait(timeout), time.monotonic()
            if not acquire_lock(lock, timeout):
                raise busy(self._name, self._timeout)
            timeout = max(0.0, timeout - (time.monotonic() - began))
        return timeout

    def _make(self) -> Any:
        with self._making:
            if self._lock is None:
                self._lock = threading.RLock()
            return self._lock

    def _release_leftover(self) -> None:
        """Release the lock that an interrupted call of this thread has left acquired."""
        self.release()

    def release(self) -> None:
        """Release the lock if this thread holds it, however often it has acquired it."""
        lock = self._lock
        if lock is not None and lock._is_owned():  # noqa: SLF001
            lock._release_save()  # noqa: SLF001

    @contextmanager
    def held(self, timeout: float) -> Iterator[float]:
        """A block in which this thread holds the lock. Gives the seconds of the timeout that are left.

        :raises StorageBusy: if the lock was not released within the timeout
        """
        try:
            try:
                yield self.acquire(timeout)
            finally:
                self.release()
        finally:
            self.release()


class WriteLock(Lock):
    """A lock that a transaction can keep while other code of the thread runs."""

    _holder: weakref.ref[Transaction] | None = None

    def hold(self, holder: Transaction) -> None:
        """Let a transaction keep the lock, which this thread has acquired."""
        self._holder = weakref.ref(holder)

    def _release_leftover(self) -> None:
        holder = self._holder() if self._holder is not None else None
        if holder is not None and holder.is_open:
            raise StorageBusy(
                f"Another task of this thread is in a transaction on the {self._name}, so waiting for it would never "
                "end. Do not await, or handle another request, inside transaction() or edit()."
            )
        self._holder = None
        self.release()

    def release(self, holder: Transaction | None = None) -> None:
        """Release the lock if this thread holds it, unless another transaction keeps it."""
        lock, held_by = self._lock, self._holder
        if lock is not None and lock._is_owned() and (held_by is None or held_by() is holder):  # noqa: SLF001
            self._holder = None
            lock._release_save()  # noqa: SLF001


def acquire_lock(lock: threading.Lock | threading.RLock, timeout: float) -> bool:
    """Acquire a lock within a timeout in seconds. Returns whether it was acquired."""
    if type(lock) in (type(threading.Lock()), type(threading.RLock())):
        return lock.acquire(timeout=timeout)
    # The lock was created before gevent patched threading. Blocking on it would stop all greenlets of the process,
    # including the one that holds it.
    deadline = time.monotonic() + timeout
    while not lock.acquire(blocking=False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)
    return True
