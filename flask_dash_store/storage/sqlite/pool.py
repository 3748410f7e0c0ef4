"""Connections to one SQLite database, for any thread of any process.

A connection serves one thread at a time, and none may be used after a fork: SQLite forbids it
(https://www.sqlite.org/howtocorrupt.html, section 2.6), and a child with an inherited connection would believe that it
holds its parent's locks. So a fork waits until all connections have been released and closed. Servers that fork in C
(uWSGI) do not call Python's hooks. For them, no connection stays open once the storage is ready. A child that has
inherited idle connections closes them before it opens its own. If one was in use, the child cannot use the storage.

The driver is APSW because it includes its own, current SQLite. With the SQLite of many systems, two processes that make
checkpoints at the same time can lose rows (https://www.sqlite.org/wal.html#walresetbug). Nothing here opens the file by
other means, because closing any other descriptor drops SQLite's POSIX locks.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw

from ...errors import StorageClosed, StorageError
from ..lock import Lock, WriteLock
from ..transaction import Transaction, begun
from .connection import MAX_DELAY, Connection, storage_error
from .files import FileIdentity, access_problem

Connect = Callable[[float], Connection]

MAX_IDLE = 16
# Seconds that a fork waits for another one.
FORK_TIMEOUT = 60.0

_adopting = threading.Lock()

pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """The connections of one storage in this process, and the lock of its writers.

    SQLite lets one connection write at a time. Threads of this process wait for the write lock. Only the one that holds
    it waits for other processes, in SQLite's busy handler.

    :param connect: opens a connection with a timeout in seconds
    :param name: the storage's name in error messages, without an article
    :param timeout: seconds that a caller waits for a lock
    :param file: the database's file
    """

    def __init__(self, connect: Connect, name: str, timeout: float, file: FileIdentity) -> None:
        self.name = name
        self.timeout = timeout
        self.file = file
        self.wal_pages = 0
        self._connect = connect
        self._closed_because: str | None = None
        self._max_idle = MAX_IDLE
        self._start()
        pools.add(self)

    def _start(self) -> None:
        """Begin in this process, without connections, and with new locks."""
        self._process = os.getpid()
        self._idle: deque[Connection] = deque()
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._stale: set[Connection] = set()
        self._opening = Lock(self.name, self.timeout)
        self.write_lock = WriteLock(self.name, self.timeout)

    def _adopt(self) -> None:
        """Begin in a child that was forked in C, without Python's hooks."""
        with _adopting:
            if self._process != os.getpid():
                self.after_fork_in_child()

    # Connections

    def acquire(self) -> Connection:
        """A connection for the caller alone, to be returned with :meth:`release`."""
        if self._process != os.getpid():
            self._adopt()
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _new(self) -> Connection:
        with self._opening.held(self.timeout) as timeout:
            self.check_open()
            self.check_file()
            try:
                connection = self._connect(timeout)
            except apsw.Error as error:
                raise self._access_error() or self.error(error) from error
            connection.backoff.timeout = self.timeout
            connection.sqlite.set_wal_hook(self._note_wal())
            self._open.add(connection)
            self.file.note_wal()
        return connection

    def _access_error(self) -> StorageError | None:
        """The error for a file that this user may not use, for example because root created it before a server changed
        its user; None if that is not the reason."""
        reason = access_problem(Path(self.file.path))
        return None if reason is None else StorageError(reason)

    def check_file(self) -> None:
        """Check that the database file and its WAL have not been deleted or replaced: writes to them would be lost.

        :raises StorageError: if the database file is no longer the one that was opened
        """
        if not self.file.is_same_wal():
            # Another SQLite library in this process has closed the file, which dropped our locks, and removed the WAL.
            # It has copied the WAL into the database before (https://www.sqlite.org/howtocorrupt.html, 2.2).
            self._stale = set(self._open)
            self.file.forget_wal()
            self.close_idle()

    def release(self, connection: Connection) -> None:
        """Return a connection. If its transaction is unfinished, it is closed, which rolls back."""
        is_usable = len(self._idle) < self._max_idle and not (self._closed_because or connection.sqlite.in_transaction)
        if not is_usable or connection in self._stale:
            self._discard(connection)
        else:
            self._idle.append(connection)

    def _discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._stale:
            self._stale.discard(connection)
            # It must neither copy its old WAL into the database nor remove the new one of others.
            connection.sqlite.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.sqlite.close(True)

    def close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._discard(self._idle.pop())

    def _note_wal(self) -> Callable[[apsw.Connection, str, int], int]:
        """A hook that notes the size of the WAL. It must not keep the pool alive: the garbage collector does not see
        the references of a connection's hooks."""
        found = weakref.ref(self)

        def note(_: apsw.Connection, __: str, pages: int) -> int:
            pool = found()
            if pool is not None:
                pool.wal_pages = pages
            return apsw.SQLITE_OK

        return note

    # Writers

    def acquire_writer(self, timeout: float, transaction: Transaction | None = None) -> Connection:
        """Acquire the write lock of this process, check the file, and return a connection.

        The caller must release ``write_lock``, even if this raises, and restore the connection's timeout.

        :param timeout: seconds to wait for other threads. The connection waits for other processes for the rest.
        :param transaction: the transaction that keeps the lock until it ends, whatever else this thread does
        :raises StorageBusy: if that takes longer, or another task of this thread is in a transaction
        :raises StorageError: if the file was deleted or replaced
        """
        if self._process != os.getpid():
            self._adopt()
        timeout = self.write_lock.acquire(timeout)
        if transaction is not None:
            self.write_lock.hold(transaction)
        if time.monotonic() > self.file.is_checked_until and not self.file.is_same():
            self.check_open()
            self.check_file()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._new()
        connection.backoff.timeout = timeout
        return connection

    def check_before_commit(self) -> None:
        """Check that the WAL has not been removed since the transaction began.

        :raises StorageError: if it has, or if the file was deleted or replaced
        """
        if not self.file.is_same():
            self.check_file()
            raise StorageError(
                f"The transaction on the {self.name} has been rolled back, because the -wal file was removed during "
                "it: by hand, or by sqlite3.connect() in this process. Open the file with sqlite3 in another process."
            )

    # The end, and forks

    def check_open(self) -> None:
        if self._closed_because:
            raise StorageClosed(f"The {self.name} {self._closed_because}.")

    def close(self) -> None:
        """Close all idle connections. The others are closed when they are released."""
        self._closed_because = self._closed_because or "has been closed"
        self.close_idle()

    def before_fork(self) -> None:
        """Open no more connections, and keep no idle ones, until the fork is done."""
        self._opening.acquire(self.timeout)
        self._max_idle = 0

    def drain(self, wait: bool) -> None:
        """Close all connections.

        :param wait: whether to wait for those in use, at most ``timeout`` seconds
        """
        deadline = time.monotonic() + (self.timeout if wait else 0)
        self.close_idle()
        while self._open and time.monotonic() < deadline:
            time.sleep(MAX_DELAY)
            self.close_idle()

    def after_fork_in_parent(self) -> None:
        self._max_idle = MAX_IDLE
        self._opening.release()

    def after_fork_in_child(self) -> None:
        self.close_inherited()
        in_use = list(self._open)
        for connection in in_use:
            _never_finalize(connection.sqlite)
        self._max_idle = MAX_IDLE
        self._start()
        if in_use:
            self._closed_because = (
                "had a connection in use when this process was forked, so this process cannot use it; start processes "
                "before a transaction begins, or after it has ended"
            )

    def close_inherited(self) -> None:
        """Close idle connections that a fork in C, without Python's hooks, has copied.

        While one is open, SQLite believes that this process holds the parent's locks, for new connections, too. SQLite
        forbids closing an inherited connection, because that may make a checkpoint and remove the WAL that others use.
        Closing an idle one without a checkpoint only closes its files, and affects no lock of another process.
        """
        self._stale |= set(self._idle)
        self.close_idle()

    def error(self, error: Exception, connection: Connection | None = None) -> StorageError:
        """The package's exception for an error of SQLite."""
        return storage_error(self.name, self.timeout, error, connection)


def _never_finalize(connection: apsw.Connection) -> None:
    # At exit, Python would close the connection, which would rewrite the WAL index that the parent is using. An extra
    # reference prevents that.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


class _Fork:
    """Closes all connections of all pools before a fork, and lets no one open new ones during it."""

    def __init__(self) -> None:
        self._one_at_a_time = Lock("fork of this process", FORK_TIMEOUT)
        self._held: list[Pool] = []

    def before(self) -> None:
        self._one_at_a_time.acquire(FORK_TIMEOUT)
        self._held = []
        for pool in list(pools):
            self._held.append(pool)  # First, because a signal handler may raise in between.
            pool.before_fork()
        for pool in self._held:
            pool.drain(wait=not _is_in_transaction(pool))  # A fork inside a transaction would wait for itself.

    def after_in_parent(self) -> None:
        try:
            for pool in self._held:
                pool.after_fork_in_parent()
        finally:
            self._one_at_a_time.release()

    def after_in_child(self) -> None:
        for pool in self._held:
            pool.after_fork_in_child()
        self._one_at_a_time = Lock("fork of this process", FORK_TIMEOUT)


def _is_in_transaction(pool: Pool) -> bool:
    """Whether the current context is in a transaction on it."""
    open_here = (reference() for reference in begun.get())
    return any(each is not None and each.is_open and getattr(each, "pool", None) is pool for each in open_here)


if hasattr(os, "register_at_fork"):
    _fork = _Fork()
    os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)
