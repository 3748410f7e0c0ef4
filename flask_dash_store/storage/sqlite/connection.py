"""A connection to a SQLite file: how it is opened, how it waits for locks, and how its errors are translated."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import apsw

from ...errors import StorageBusy, StorageCorrupt, StorageError, StorageFull, UnsuitableFilesystem
from ..base import Synchronous
from ..timeouts import busy, longest_wait
from .files import NO_SPACE
from .filesystem import advice
from .schema import FORMAT_FACTS, PAGE_BYTES, check_format

FIRST_DELAY = 0.00005
MAX_DELAY = 0.001

# The size to which a checkpoint truncates the WAL file, in bytes.
WAL_SIZE_LIMIT = 4096 * PAGE_BYTES

_ERRORS: dict[type[Exception], type[StorageError]] = {
    apsw.FullError: StorageFull,
    apsw.CorruptError: StorageCorrupt,
    apsw.NotADBError: StorageCorrupt,
    UnicodeDecodeError: StorageCorrupt,
}

Row = tuple[Any, ...]
Bindings = Sequence[Any] | Mapping[str, Any]

Errors = (apsw.Error, UnicodeDecodeError)
"""What a statement can raise: SQLite's own errors, and the error for text that is not UTF-8."""


class Backoff:
    """The busy handler of a connection: it retries while another process holds a lock, for up to ``timeout`` seconds.

    SQLite's own handler retries after 1, 2, 5, 10, 15, ... ms, so an unlucky caller waits far longer than the lock is
    held. And it blocks all greenlets of a process where gevent has replaced ``time.sleep``. This one retries very soon,
    because a small write takes some 20 us, and then every :data:`MAX_DELAY`. A process that acquires the lock many
    times in a row must release it for longer than that in between.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._deadline = 0.0

    def retry(self, attempts: int) -> bool:
        """SQLite's busy handler (https://www.sqlite.org/c3ref/busy_handler.html)."""
        now = time.monotonic()
        if attempts == 0:
            self._deadline = now + longest_wait(self.timeout)
        if now >= self._deadline:
            return False
        time.sleep(min(FIRST_DELAY * 2 ** min(attempts, 10), MAX_DELAY))
        return True


class Connection:
    """An APSW connection with its busy handler and one cursor for all statements.

    Creating a cursor for each statement would take a tenth of the time of a small write. There are no reference cycles,
    so a connection that an interrupted call has lost is closed at once, without the garbage collector.

    :param timeout: seconds to wait for other processes
    :ivar run: executes a statement; read its rows to the end before the next call
    :ivar changes: returns how many rows the last INSERT, UPDATE or DELETE changed
    """

    def __init__(self, sqlite: apsw.Connection, timeout: float) -> None:
        self.sqlite = sqlite
        self.backoff = Backoff(timeout)
        self.changes = sqlite.changes
        sqlite.set_busy_handler(self.backoff.retry)
        self.renew_cursor()

    def renew_cursor(self) -> None:
        """Replace the cursor, whose rows may not have been read to the end."""
        self.run = self.sqlite.cursor().execute


def connect(filename: str, synchronous: Synchronous, timeout: float) -> Connection:
    """Open a connection that overwrites deleted data, and does not trust the schema in the file.

    :param timeout: seconds that it waits for other processes
    :raises UnknownFormat: if the file was written by another version of this package, or by another program
    """
    # Without SQLITE_OPEN_CREATE, a file that was deleted is an error, and not replaced by an empty database.
    sqlite = apsw.Connection(filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
    connection = Connection(sqlite, timeout)
    for pragma in (
        f"synchronous = {synchronous}",
        # On macOS, fsync only writes to the disk's cache without this. Other systems ignore it.
        f"fullfsync = {synchronous == 'FULL'}",
        "secure_delete = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        f"journal_size_limit = {WAL_SIZE_LIMIT}",
    ):
        connection.run(f"PRAGMA {pragma}").fetchall()
    check_format(cast(tuple[int, int, int], connection.run(FORMAT_FACTS).fetchall()[0]), filename)
    return connection


def use_wal(connection: Connection, filename: str) -> None:
    """Switch to WAL mode, so that readers and a writer do not block each other, and to incremental vacuum.

    :raises UnsuitableFilesystem: if the file system does not support WAL mode
    :raises apsw.BusyError: if others keep the database locked for longer than the connection's timeout
    """
    # Several processes may start at once, and SQLite does not call the busy handler while the mode changes.
    deadline = time.monotonic() + connection.backoff.timeout
    while True:
        try:
            mode = connection.sqlite.pragma("journal_mode")
            if mode != "wal":  # Setting it again would write, which fails on a full disk.
                connection.sqlite.pragma("auto_vacuum", "INCREMENTAL")
                mode = connection.sqlite.pragma("journal_mode", "WAL")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise UnsuitableFilesystem(advice(filename, "SQLite cannot share memory there"))
        return


def storage_error(
    name: str, timeout: float, error: Exception, connection: Connection | None = None
) -> StorageError | StorageBusy:
    """The package's exception for an error of SQLite.

    :param name: the storage's name in error messages, without an article
    :param connection: the connection with the error, which knows the system's error number
    """
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return busy(name, timeout)
    kind = next((kind for cause, kind in _ERRORS.items() if isinstance(error, cause)), StorageError)
    if isinstance(error, apsw.IOError) and connection is not None and connection.sqlite.system_errno in NO_SPACE:
        kind = StorageFull  # SQLite only recognizes a full disk, not a quota or a file size limit.
    return kind(f"The {name} failed: {type(error).__name__}: {error}.")
