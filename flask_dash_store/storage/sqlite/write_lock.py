"""The lock of one process's writers: SQLite lets one connection write at a time.

Threads of a process wait for this lock, and only the one that holds it waits for other processes, in SQLite's busy
handler.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from ...errors import StorageBusy
from ..transaction import busy
from .connection import MAX_DELAY


class Holder(Protocol):
    """A transaction that holds the lock while other code runs."""

    is_open: bool


class WriteLock:
    """A lock that one thread at a time holds, and that an interrupted thread does not leave behind.

    It is an RLock because that knows its owner: an exception that a signal's handler raises, such as Celery's soft time
    limit, can come between two instructions, and leave the lock acquired; then its thread still gets it. Nothing else
    acquires it twice: another task of a thread that holds it would wait for itself, so it is refused.

    :param name: what error messages call the storage
    :param timeout: seconds that a call waits, as error messages say
    """

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._making = threading.Lock()
        self._lock: threading.RLock | None = None
        self.holder: Holder | None = None

    def acquire(self, timeout: float) -> float:
        """Acquire the lock.

        :param timeout: seconds to wait for other threads
        :returns: how many of them are left
        :raises StorageBusy: when it has taken longer, or another task of this thread is in a transaction
        """
        # Made when it is first used, so that it is gevent's wherever gevent has replaced what threads are by then.
        lock = self._lock or self._make()
        if not lock.acquire(blocking=False):
            began = time.monotonic()
            if not acquire_lock(lock, timeout):
                raise busy(self._name, self._timeout)
            timeout = max(0.0, timeout - (time.monotonic() - began))
        if self.holder is not None:
            self._check_holder(lock, self.holder)
        return timeout

    def _make(self) -> threading.RLock:
        with self._making:
            if self._lock is None:
                self._lock = threading.RLock()
            return self._lock

    def _check_holder(self, lock: threading.RLock, holder: Holder) -> None:
        lock.release()  # Either the other task has it, or an interrupted transaction has left it acquired once more.
        if holder.is_open:
            raise StorageBusy(
                f"Another task of this thread is in a transaction on {self._name}, and this one would wait for itself. "
                "Do not await, and handle no other request, inside of transaction() or edit()."
            )
        self.holder = None

    def release(self) -> None:
        self.holder = None
        if self._lock is not None:
            self._lock.release()


def acquire_lock(lock: threading.Lock | threading.RLock, timeout: float) -> bool:
    """Acquire a lock within so many seconds. Returns whether it was."""
    if type(lock) in (type(threading.Lock()), type(threading.RLock())):
        return lock.acquire(timeout=timeout)
    # It was made before gevent replaced what threads are. To wait for it would stop all greenlets of the process, and
    # so the one that holds it.
    deadline = time.monotonic() + timeout
    while not lock.acquire(blocking=False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(MAX_DELAY)
    return True
