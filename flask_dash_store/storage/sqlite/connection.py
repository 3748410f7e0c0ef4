"""A connection to a SQLite file: how it is opened, how it waits for locks, and what its errors mean."""

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

# How many bytes of the WAL's file are kept after a checkpoint.
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
"""What a statement can raise: SQLite's own errors, and text in the file that is not UTF-8."""


class Backoff:
    """How a connection retries when another process has a lock: for up to ``timeout`` seconds.

    SQLite's own busy handler looks again after 1, 2, 5, 10, 15, ... ms, so that an unlucky caller waits far longer
    than the lock was held; and where gevent has replaced ``time.sleep`` it stops all greenlets of the process. This one
    looks very soon, for a small write takes some 20 us, and then each :data:`MAX_DELAY`. A process that takes the lock
    many times in a row has to leave it free for longer than that in between.
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
    """A connection of APSW's, how it retries, and the one cursor for its statements.

    To make a cursor for each statement takes as long as a tenth of a small write. Nothing here refers to itself, so a
    connection that an interrupted call has lost is closed at once, not when the garbage collector comes.

    :param timeout: seconds to wait for other processes
    :ivar run: executes a statement; what it gives is to be read to its end before it is called again
    :ivar changes: gives how many rows the last INSERT, UPDATE or DELETE changed
    """

    def __init__(self, sqlite: apsw.Connection, timeout: float) -> None:
        self.sqlite = sqlite
        self.backoff = Backoff(timeout)
        self.changes = sqlite.changes
        sqlite.set_busy_handler(self.backoff.retry)
        self.renew_cursor()

    def renew_cursor(self) -> None:
        """Abandon what the cursor has begun to read, and may not have read to its end."""
        self.run = self.sqlite.cursor().execute


def connect(filename: str, synchronous: Synchronous, timeout: float) -> Connection:
    """A connection that overwrites what is deleted, and trusts nothing in the file.

    :param timeout: seconds that it waits for other processes
    :raises UnknownFormat: when the file was written by another version of this package, or by another program
    """
    # Without SQLITE_OPEN_CREATE a file that has gone is an error, not an empty database in its place.
    sqlite = apsw.Connection(filename, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
    connection = Connection(sqlite, timeout)
    for pragma in (
        f"synchronous = {synchronous}",
        # macOS syncs to the disk's cache unless it is told not to; no other system has this.
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
    """Let readers and a writer work side by side, and freed pages go back to the file system.

    :raises UnsuitableFilesystem: when that is not possible where the file lies
    :raises apsw.BusyError: when others keep the database locked for longer than the connection's timeout
    """
    # Several processes may start at once, and SQLite's busy handler is not asked while the mode changes.
    deadline = time.monotonic() + connection.backoff.timeout
    while True:
        try:
            mode = connection.sqlite.pragma("journal_mode")
            if mode != "wal":  # To set it again would write, which a full disk does not let it.
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
    """The package's own exception for what SQLite said.

    :param name: what error messages call the storage, without an article
    :param connection: the one that said it, which knows what the system had said
    """
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return busy(name, timeout)
    kind = next((kind for cause, kind in _ERRORS.items() if isinstance(error, cause)), StorageError)
    if isinstance(error, apsw.IOError) and connection is not None and connection.sqlite.system_errno in NO_SPACE:
        kind = StorageFull  # SQLite says "full" only of a disk, not of a quota or of a limit on files.
    return kind(f"The {name} failed: {type(error).__name__}: {error}.")
