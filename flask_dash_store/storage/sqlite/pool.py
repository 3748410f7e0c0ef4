"""Connections to one SQLite database, for any thread of any process.

A connection serves one thread at a time, and none outlives a fork: SQLite forbids to use one that was inherited
(https://www.sqlite.org/howtocorrupt.html, section 2.6), and a child that inherits one believes that it holds its
parent's locks. So a fork waits until all connections have been given back and closed; and no connection stays open
once the storage is ready, for a server that forks in C (uWSGI) calls none of Python's hooks. A child that inherited
idle ones all the same closes them before it opens its own; one that inherited a connection in use may not use the
storage.

The driver is APSW because it carries its own current SQLite: with the library of many systems, two processes that make
checkpoints at once can lose rows (https://www.sqlite.org/wal.html#walresetbug). Nothing here opens the file by other
means, for closing any other descriptor drops SQLite's POSIX locks.
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

    SQLite lets one connection write at a time. Threads of this process wait for the write lock, and only the one that
    holds it waits for other processes, in SQLite's busy handler.

    :param connect: opens and prepares a connection, which waits for so many seconds
    :param name: what error messages call the storage, without an article
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
        """Begin without connections and locks, in this process."""
        self._process = os.getpid()
        self._idle: deque[Connection] = deque()
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._stale: set[Connection] = set()
        self._opening = Lock(self.name, self.timeout)
        self.write_lock = WriteLock(self.name, self.timeout)

    def _adopt(self) -> None:
        """Begin in a child that was forked in C, where no hook of Python's has run."""
        with _adopting:
            if self._process != os.getpid():
                self.after_fork_in_child()

    # Connections

    def acquire(self) -> Connection:
        """A connection for the caller alone, who gives it back to :meth:`release`."""
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
        """The error for a file that this user may not use: say, a server has made it as root, and changed its user."""
        reason = access_problem(Path(self.file.path))
        return None if reason is None else StorageError(reason)

    def check_file(self) -> None:
        """Write to no file that has been deleted or replaced, for what is written there is lost.

        :raises StorageError: when the database file is no longer the one that was opened
        """
        if not self.file.is_same_wal():
            # Another SQLite library in this process has dropped our locks when it closed the file, and removed the WAL.
            # Until it did, it had copied all of it into the database (https://www.sqlite.org/howtocorrupt.html, 2.2).
            self._stale = set(self._open)
            self.file.forget_wal()
            self.close_idle()

    def release(self, connection: Connection) -> None:
        """Take a connection back. One with an unfinished transaction is closed, which rolls it back."""
        is_of_use = len(self._idle) < self._max_idle and not (self._closed_because or connection.sqlite.in_transaction)
        if not is_of_use or connection in self._stale:
            self._discard(connection)
        else:
            self._idle.append(connection)

    def _discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._stale:
            self._stale.discard(connection)
            # It must neither copy its WAL into the database nor remove the one that others have begun since.
            connection.sqlite.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.sqlite.close(True)

    def close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._discard(self._idle.pop())

    def _note_wal(self) -> Callable[[apsw.Connection, str, int], int]:
        """A hook that keeps no pool alive: the garbage collector does not see what a connection's hooks hold."""
        found = weakref.ref(self)

        def note(_: apsw.Connection, __: str, pages: int) -> int:
            pool = found()
            if pool is not None:
                pool.wal_pages = pages
            return apsw.SQLITE_OK

        return note

    # Writers

    def acquire_writer(self, timeout: float, transaction: Transaction | None = None) -> Connection:
        """Acquire the write lock of this process, look whether the file is still there, and give a connection.

        The caller has to release ``write_lock`` also when this raises, and to give the connection its timeout back.

        :param timeout: seconds to wait for other threads; the connection waits for other processes for what is left
        :param transaction: for which the lock is held until it ends, whatever else this thread does meanwhile
        :raises StorageBusy: when it has taken longer, or another task of this thread is in a transaction
        :raises StorageError: when the file has gone
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
        """Do not commit to a WAL that has been removed since the transaction began.

        :raises StorageError: when it has been, or the file has gone
        """
        if not self.file.is_same():
            self.check_file()
            raise StorageError(
                f"The transaction on the {self.name} has been rolled back, because its -wal file was removed while it "
                "was open: by hand, or by sqlite3.connect() in this process. Open the file in a process of its own."
            )

    # The end, and forks

    def check_open(self) -> None:
        if self._closed_because:
            raise StorageClosed(f"The {self.name} {self._closed_because}.")

    def close(self) -> None:
        """Close all connections that are idle; the others are closed when they are released."""
        self._closed_because = self._closed_because or "has been closed"
        self.close_idle()

    def before_fork(self) -> None:
        """Open no more connections, and keep none, until the fork is done."""
        self._opening.acquire(self.timeout)
        self._max_idle = 0

    def drain(self, wait: bool) -> None:
        """Close all connections.

        :param wait: whether to wait for those that are in use, for ``timeout`` seconds at most
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
                "before a transaction begins, or after it ends"
            )

    def close_inherited(self) -> None:
        """Close the connections that were idle when a fork in C, of which no hook of Python's knew, copied them.

        While one is open, those that are opened here share the locks that SQLite believes it to hold, which are the
        parent's. SQLite forbids to close one, for that can make a checkpoint, and remove the WAL that others use. An
        idle one that makes no checkpoint only closes its files, which takes no lock from any other process.
        """
        self._stale |= set(self._idle)
        self.close_idle()

    def error(self, error: Exception, connection: Connection | None = None) -> StorageError:
        """The package's own exception for what SQLite said."""
        return storage_error(self.name, self.timeout, error, connection)


def _never_finalize(connection: apsw.Connection) -> None:
    # At exit Python would close what it still holds, and closing an inherited connection rewrites the WAL index that
    # the parent is using. One more reference than Python knows of keeps it as it is.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


class _Fork:
    """Holds all pools still while the process forks."""

    def __init__(self) -> None:
        self._one_at_a_time = Lock("fork of this process", FORK_TIMEOUT)
        self._held: list[Pool] = []

    def before(self) -> None:
        self._one_at_a_time.acquire(FORK_TIMEOUT)
        self._held = []
        for pool in list(pools):
            self._held.append(pool)  # First, for a signal's handler may raise in between.
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
    """Whether the present context is in a transaction on it."""
    open_here = (reference() for reference in begun.get())
    return any(each is not None and each.is_open and getattr(each, "pool", None) is pool for each in open_here)


if hasattr(os, "register_at_fork"):
    _fork = _Fork()
    os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)
