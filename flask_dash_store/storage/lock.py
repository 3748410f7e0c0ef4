"""A lock for the writers of one process, where one at a time may write.

An exception that a signal's handler raises, such as Celery's soft time limit, can come between any two instructions:
after a lock was acquired and before that was noted, or before the first instruction of what should release it. So this
is an RLock, which knows its owner: to release it twice does no harm, and a thread that has left it acquired gets it
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

# Seconds between two tries to acquire a lock that cannot be waited for.
POLL = 0.001


class Lock:
    """A lock that one thread at a time holds.

    :param name: what error messages call that which it protects, without an article
    :param timeout: seconds that error messages name: those for which a call waits
    """

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._making = threading.Lock()
        self._lock: Any = None  # The type of an RLock has no name for what threading.Condition asks of it.

    def acquire(self, timeout: float) -> float:
        """Acquire the lock.

        :param timeout: seconds to wait for other threads
        :returns: how many seconds of the timeout are left
        :raises StorageBusy: when the lock was not free within the timeout
        """
        # Made when it is first used, so that it is gevent's wherever gevent has patched threading by then.
        lock = self._lock or self._make()
        if lock._is_owned():  # noqa: SLF001  # As threading.Condition asks; there is no other way to know.
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
        """Release what an interrupted call of this thread has left acquired."""
        self.release()

    def release(self) -> None:
        """Release the lock, however often it was acquired, if it is this thread's."""
        lock = self._lock
        if lock is not None and lock._is_owned():  # noqa: SLF001
            lock._release_save()  # noqa: SLF001

    @contextmanager
    def held(self, timeout: float) -> Iterator[float]:
        """A block in which this thread holds the lock. Gives the seconds that are left to wait for others.

        :raises StorageBusy: when it takes longer than the timeout to acquire
        """
        try:
            try:
                yield self.acquire(timeout)
            finally:
                self.release()
        finally:
            self.release()


class WriteLock(Lock):
    """A lock that one transaction of a thread can keep while other code runs."""

    _holder: weakref.ref[Transaction] | None = None

    def hold(self, holder: Transaction) -> None:
        """The lock, which this thread has acquired, is this transaction's."""
        self._holder = weakref.ref(holder)

    def _release_leftover(self) -> None:
        holder = self._holder() if self._holder is not None else None
        if holder is not None and holder.is_open:
            raise StorageBusy(
                f"Another task of this thread is in a transaction on the {self._name}, and this one would wait for "
                "itself. Do not await, and handle no other request, inside of transaction() or edit()."
            )
        self._holder = None
        self.release()

    def release(self, holder: Transaction | None = None) -> None:
        """Release the lock, if this thread holds it, and for no other transaction than this one."""
        lock, held_by = self._lock, self._holder
        if lock is not None and lock._is_owned() and (held_by is None or held_by() is holder):  # noqa: SLF001
            self._holder = None
            lock._release_save()  # noqa: SLF001


def acquire_lock(lock: threading.Lock | threading.RLock, timeout: float) -> bool:
    """Acquire a lock within so many seconds. Returns whether it was."""
    if type(lock) in (type(threading.Lock()), type(threading.RLock())):
        return lock.acquire(timeout=timeout)
    # It was made before gevent patched threading. To wait for it would stop all greenlets of the process, and so the
    # one that holds it.
    deadline = time.monotonic() + timeout
    while not lock.acquire(blocking=False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)
    return True
