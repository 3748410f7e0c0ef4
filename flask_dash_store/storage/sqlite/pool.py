"""Connections to one SQLite database, for any thread of any process.

A connection serves one thread at a time, and none outlives a fork: SQLite forbids to use or to close one that was
inherited (https://www.sqlite.org/howtocorrupt.html, section 2.6), and a child that inherits one believes to hold its
parent's locks, so that it can neither write nor be sure of what it reads. So a fork waits until all connections have
been given back and closed. A child that inherited one all the same may not use the storage.

The driver is APSW because it carries its own current SQLite: with the library of many systems, two processes that
checkpoint at once can lose rows (https://www.sqlite.org/wal.html#walresetbug). Nothing here opens the file by other
means, for closing any other descriptor drops SQLite's POSIX locks.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import apsw

from ...errors import StorageBusy, StorageClosed, StorageCorrupt, StorageError, StorageFull
from .files import NO_SPACE
from .identity import FileIdentity
from .waiting import retry, take

logger = logging.getLogger("flask_dash_store")

Connect = Callable[[], apsw.Connection]

T = TypeVar("T")

MAX_IDLE = 16

# A checkpoint waits for the disk, and copies each changed page once however often it has changed. It is made once a
# response has been sent, or else by a later write. While requests write, one can end without having caught up with
# them; a WAL that has grown much longer gets one for which this process's writers wait.
WAL_PAGES = 4096
OVERDUE_WAL_PAGES = 2 * WAL_PAGES
LONG_WAL_PAGES = 8 * WAL_PAGES

pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """The connections of one storage in this process, and the turn of its writers.

    SQLite lets one connection write at a time. Threads of this process wait for :attr:`writer`, and only the one
    that has it waits for other processes.

    :param connect: opens and prepares a connection
    :param name: what error messages call the database
    :param timeout: seconds that a caller waits for others
    :param file: the database's file; None when it has none
    """

    def __init__(self, connect: Connect, name: str, timeout: float, file: FileIdentity | None = None) -> None:
        self.name = name
        self.timeout = timeout
        self.writer = threading.Lock()
        self._connect = connect
        self._idle: deque[apsw.Connection] = deque()
        self._open: set[apsw.Connection] = set()
        self._file = file
        self._to_former_file: set[apsw.Connection] = set()
        self._opening = threading.Lock()
        self._max_idle = MAX_IDLE
        self._closed_because: str | None = None
        self._wal_pages = 0
        self._checkpointer = threading.Lock()
        pools.add(self)

    def acquire(self) -> apsw.Connection:
        """A connection for the caller alone, who gives it back to :meth:`release`."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _new(self) -> apsw.Connection:
        with self._one_opens() as timeout:
            self.check_open()
            self._follow_file()
            try:
                connection = retry(self._connect, timeout)
            except apsw.Error as error:
                raise self.fault(error) from error
            self._open.add(connection)
            if self._file is not None:
                self._file.note_wal()
        connection.set_wal_hook(self._note_wal)
        return connection

    @contextmanager
    def _one_opens(self) -> Iterator[float]:
        """One thread at a time opens connections. Gives the seconds that are left to wait for other processes."""
        deadline = time.monotonic() + self.timeout
        if not take(self._opening, self.timeout):
            raise self.busy()
        try:
            yield max(0.0, deadline - time.monotonic())
        finally:
            self._opening.release()

    def _follow_file(self) -> None:
        """Write to no file that has been deleted or replaced, for what is written there is lost.

        :raises StorageError: when there is no file to go on with
        """
        if self._file is None or self._file.is_same():
            return
        self._file.check_present()
        if self._open:
            self._to_former_file |= self._open
            self._checkpoint_former_file()
            self._file.remove_former_wal()
            self._close_idle()
            if self._open:
                raise StorageError(f"The storage file {self.name} was replaced while it was being read. Try again.")
        self._file.follow()

    def _checkpoint_former_file(self) -> None:
        """Leave a file that was moved away complete, for its WAL does not go with it."""
        with suppress(IndexError):
            connection = self._idle.pop()
            with suppress(apsw.Error):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._idle.append(connection)

    def acquire_writer(self, timeout: float) -> float:
        """Become this process's writer, who releases :attr:`writer` in the end.

        :param timeout: seconds to wait for other threads
        :returns: how many of them are left to wait for other processes
        :raises StorageBusy: when it has taken longer
        :raises StorageError: when the file has gone
        """
        if not self.writer.acquire(blocking=False):
            began = time.monotonic()
            if not take(self.writer, timeout):
                raise self.busy()
            timeout = max(0.0, timeout - (time.monotonic() - began))
        try:
            file = self._file
            if file is not None and time.monotonic() > file.is_known_until and not file.is_same():
                with self._one_opens():
                    self.check_open()
                    self._follow_file()
        except BaseException:
            self.writer.release()
            raise
        return timeout

    def retry(self, connection: apsw.Connection, call: Callable[[], T], timeout: float) -> T:
        """Call again what another process was in the way of, for so many seconds.

        :raises StorageBusy: when it is still in the way
        """
        try:
            return retry(call, timeout)
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self.fault(error, connection) from error

    def _note_wal(self, _: apsw.Connection, __: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    @property
    def is_checkpoint_due(self) -> bool:
        return self._wal_pages >= WAL_PAGES

    def checkpoint_if_overdue(self) -> None:
        if self._wal_pages >= OVERDUE_WAL_PAGES:
            self.checkpoint_if_due()

    def checkpoint_if_due(self) -> None:
        """Copy the WAL into the database when it has become long. SQLite by itself would do it in the writers' turn."""
        if not self.is_checkpoint_due or not self._checkpointer.acquire(blocking=False):
            return
        is_long = self._wal_pages > LONG_WAL_PAGES and take(self.writer, self.timeout)
        try:
            self._wal_pages = 0
            self.checkpoint()
        finally:
            if is_long:
                self.writer.release()
            self._checkpointer.release()

    def checkpoint(self, truncate: bool = False) -> None:
        """Copy the WAL into the database, as far as readers let it; or wait for them, and leave it empty."""
        try:
            connection = self.acquire()
            try:
                with suppress(apsw.BusyError):  # Another process is doing it.
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                if truncate:  # Writers wait for this one, so it is left little to do.
                    retry(partial(connection.wal_checkpoint, mode=apsw.SQLITE_CHECKPOINT_TRUNCATE), self.timeout)
            finally:
                self.release(connection)
        except apsw.BusyError:
            pass  # Somebody reads for longer than the timeout.
        except (apsw.Error, StorageError) as error:
            # What was committed is in the WAL, and stays there until a checkpoint succeeds.
            logger.warning("A checkpoint of the storage %s failed: %s", self.name, error)

    def release(self, connection: apsw.Connection) -> None:
        """Take a connection back. One with an unfinished transaction is closed, which rolls it back."""
        is_of_use = not self._closed_because and len(self._idle) < self._max_idle and not connection.in_transaction
        if not is_of_use or connection in self._to_former_file:
            self._discard(connection)
        else:
            self._idle.append(connection)

    def _discard(self, connection: apsw.Connection) -> None:
        self._open.discard(connection)
        self._to_former_file.discard(connection)
        connection.close(True)

    def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._discard(self._idle.pop())

    def check_open(self) -> None:
        if self._closed_because:
            raise StorageClosed(f"The storage {self.name} {self._closed_because}.")

    def close(self) -> None:
        """Close all connections that nobody uses; the others are closed when they are released."""
        self._closed_because = self._closed_because or "has been closed"
        self._close_idle()

    def hold_for_fork(self) -> None:
        """Open no more connections, and keep none, until the fork is done."""
        self._opening.acquire()
        self._max_idle = 0

    def drain_for_fork(self, wait: bool) -> None:
        """Close all connections.

        :param wait: whether to wait for those that are in use, for ``timeout`` seconds at most
        """
        deadline = time.monotonic() + (self.timeout if wait else 0)
        self._close_idle()
        while self._open and time.monotonic() < deadline:
            time.sleep(0.0005)
            self._close_idle()

    def after_fork_in_parent(self) -> None:
        self._max_idle = MAX_IDLE
        self._opening.release()

    def after_fork_in_child(self) -> None:
        if self._open:
            for connection in self._open:
                _never_finalize(connection)
            self._closed_because = (
                "was in the middle of a transaction when this process was forked, so this process cannot use it; "
                "start processes before a transaction begins, or after it ends"
            )
        self._open = set()
        self._to_former_file = set()
        self._idle = deque()
        self._max_idle = MAX_IDLE
        self._opening = threading.Lock()
        self.writer = threading.Lock()
        self._checkpointer = threading.Lock()

    def fault(self, error: apsw.Error | UnicodeDecodeError, connection: apsw.Connection | None = None) -> StorageError:
        """The package's own exception for what SQLite said.

        :param connection: the one that said it, which knows what the system had said
        """
        if isinstance(error, (apsw.BusyError, apsw.LockedError)):
            return self.busy()
        kind = next((kind for cause, kind in _FAULTS.items() if isinstance(error, cause)), StorageError)
        if isinstance(error, apsw.IOError) and connection is not None and connection.system_errno in NO_SPACE:
            kind = StorageFull  # SQLite says "full" only of a disk, not of a quota or of a limit on files.
        return kind(f"The storage {self.name} failed: {type(error).__name__}: {error}.")

    def busy(self) -> StorageBusy:
        return StorageBusy(
            f"The storage {self.name} was in use by others for longer than the {self.timeout:g} seconds that "
            "USER_STORE_TIMEOUT (timeout=) lets a call wait. Keep transaction() blocks short, or raise it."
        )


class MemoryPool(Pool):
    """The one connection of an in-memory database. It is the database, so it is closed at the end alone."""

    def __init__(self, connect: Connect, name: str, timeout: float) -> None:
        super().__init__(connect, name, timeout)
        self._free = threading.Lock()
        self._connection = self._new()

    def acquire(self) -> apsw.Connection:
        self.check_open()
        if not take(self._free, self.timeout):
            raise self.busy()
        if self._closed_because:
            self._free.release()
            self.check_open()
        return self._connection

    def release(self, connection: apsw.Connection) -> None:
        if self._closed_because:
            self._discard(connection)
        self._free.release()

    def close(self) -> None:
        if not self._closed_because:
            self._closed_because = "has been closed"
            if self._free.acquire(blocking=False):
                self.release(self._connection)

    def hold_for_fork(self) -> None:
        """The connection stays open, for it is the database."""

    def drain_for_fork(self, wait: bool) -> None:
        """There is nothing to close."""

    def after_fork_in_parent(self) -> None:
        """There is nothing to open again."""

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        self._free = threading.Lock()
        self._closed_because = (
            "lives in the memory of the process that opened it, of which this one is a fork; "
            "use a file to share values between processes"
        )


_FAULTS: dict[type[Exception], type[StorageError]] = {
    apsw.FullError: StorageFull,
    apsw.CorruptError: StorageCorrupt,
    apsw.NotADBError: StorageCorrupt,
    UnicodeDecodeError: StorageCorrupt,
}


def _never_finalize(connection: apsw.Connection) -> None:
    # At exit Python would close what it still holds, and closing an inherited connection rewrites the WAL index
    # that the parent is using. One more reference than Python knows of keeps it as it is.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
