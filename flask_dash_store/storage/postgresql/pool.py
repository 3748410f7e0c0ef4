"""Connections to one PostgreSQL database, for any thread of any process.

A connection serves one thread at a time. A child process closes the sockets of its parent's connections, without
sending anything, so that the server releases the parent's locks as soon as the parent ends.

A signal handler may raise an exception, such as Celery's soft time limit, between any two instructions. So connections
are not counted: one that such an exception has lost is closed when it is garbage-collected, which frees its slot.

psycopg's own pool opens connections in threads, which do not survive a fork. And if a connection cannot be opened, it
only raises after the whole timeout, without the reason. This one raises at once.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import psycopg

from ...errors import StorageBusy, StorageClosed, StorageError
from ..timeouts import busy, longest_wait
from .connection import Bindings, Connection, Row, Silent, Slot, Target, fault

# Seconds between two checks for a slot that was freed without a notification.
_POLL = 0.1

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_noticing_fork = threading.Lock()


class Pool:
    """The connections of one storage in this process.

    :param timeout: seconds that a call waits for a connection, and for a lock
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self.name = target.name
        self.timeout = timeout
        self._target = target
        self._is_closed = False
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()  # A `with` cannot leave it acquired, as it can a Condition.
        self._changed = threading.Condition(self._lock)
        self._idle: deque[Connection] = deque()
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._slots: weakref.WeakSet[Slot] = weakref.WeakSet()  # For connections that are open, or being opened.

    def run(self, sql: str, args: Bindings | None = None, nbytes: int = 0, may_repeat: bool = False) -> list[Row]:
        """Run a statement and return its rows. Parameters and errors are those of :meth:`start`."""
        connection, rows = self.start(sql, args, nbytes, may_repeat)
        self.release(connection)
        return rows

    def start(
        self, sql: str, args: Bindings | None = None, nbytes: int = 0, may_repeat: bool = False
    ) -> tuple[Connection, list[Row]]:
        """Run a statement on any connection, which the caller must return with :meth:`release`.

        :param nbytes: the size of the values in it
        :param may_repeat: whether it is safe to repeat if the connection was lost, as after a restart of the server
        :raises StorageError: if it fails
        """
        for is_last in (not may_repeat, True):
            connection = self.acquire()
            try:
                return connection, connection.run(sql, args, nbytes)
            except psycopg.Error as error:
                is_lost = connection.closed
                self.release(connection)
                if is_last or not is_lost or isinstance(error, Silent):
                    raise self.fault(error, is_in_doubt=is_lost and not may_repeat) from error
            except BaseException:
                self.release(connection)
                raise
        raise AssertionError("the last attempt returns or raises")

    def acquire(self) -> Connection:
        """A connection for the caller alone, to be returned with :meth:`release`.

        :raises StorageBusy: if all are in use for longer than the timeout
        :raises StorageClosed: if the pool has been closed
        """
        self._notice_fork()
        deadline = time.monotonic() + longest_wait(self.timeout)
        while True:
            connection = self._idle_or_slot(deadline)
            if isinstance(connection, Slot):
                try:
                    return self._new(connection)
                except psycopg.Error as error:
                    released = self._released_one(deadline)
                    if released is None:
                        raise self.fault(error) from error
                    connection = released
            if connection.is_ready():
                return connection
            self._discard(connection)  # The server has closed it.

    def _idle_or_slot(self, deadline: float) -> Connection | Slot:
        """An idle connection, or a slot for a new one."""
        most = self._target.max_connections
        with self._lock:
            if not self._wait_for(lambda: self._idle or len(self._slots) < most, deadline):
                raise StorageBusy(
                    f"All {most} connections of this process to the {self.name} were in use for longer than the "
                    f"{self.timeout:g} seconds that USER_STORE_TIMEOUT (timeout=) lets a call wait. Raise "
                    "max_connections= in USER_STORE_URL (url=), use fewer threads in more processes, or keep "
                    "transaction() blocks short.",
                    limit=self.timeout,
                )
            if self._is_closed:
                raise StorageClosed(f"The {self.name} has been closed.")
            if self._idle:
                return self._idle.pop()
            slot = Slot()
            self._slots.add(slot)
            return slot

    def _new(self, slot: Slot) -> Connection:
        try:
            connection = Connection.open(self._target, self.timeout)
        except BaseException:
            self._free(slot)  # A caller that keeps the error keeps this frame, and the slot.
            raise
        connection.slot = slot
        self._open.add(connection)
        return connection

    def _released_one(self, deadline: float) -> Connection | None:
        """A connection that another thread releases, because the server may not allow a new one."""
        with self._lock:
            self._wait_for(lambda: self._idle or not self._open, deadline)
            return self._idle.pop() if self._idle else None

    def _wait_for(self, predicate: Callable[[], object], deadline: float) -> bool:
        """Wait until a predicate is true. Returns whether it became true before the deadline."""
        while not predicate():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, _POLL))
        return True

    def release(self, connection: Connection) -> None:
        """Return a connection. An uncommitted transaction is rolled back."""
        if connection.clean_up():
            with self._lock:
                self._idle.append(connection)
                self._changed.notify()
        else:
            self._discard(connection)
        if self._is_closed:
            self.close_idle()

    def _discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()
        self._free(connection.slot)

    def _free(self, slot: Slot | None) -> None:
        with self._lock:
            if slot is not None:
                self._slots.discard(slot)
            self._changed.notify_all()

    def close(self) -> None:
        """Close all idle connections. The others are closed when they are released."""
        self._is_closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close all idle connections."""
        with suppress(IndexError):
            while True:
                self._discard(self._idle.pop())

    def _notice_fork(self) -> None:
        """Handle a fork in C, as of uWSGI, which does not call Python's hooks."""
        if self._process != os.getpid():
            with _noticing_fork:
                if self._process != os.getpid():
                    self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        for connection in list(self._open):
            connection.forget()
        self._begin()

    def fault(self, error: psycopg.Error, is_in_doubt: bool = False) -> StorageError:
        """The package's exception for an error of psycopg."""
        return fault(self.name, error, busy(self.name, self.timeout), is_in_doubt)


def _forget_all() -> None:
    for pool in list(_pools):
        pool.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
