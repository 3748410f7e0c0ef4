"""How a connection is opened, and a new database made ready."""

from __future__ import annotations

import time

import apsw

from ...errors import StorageBusy, UnsuitableFilesystem
from ..base import Synchronous
from .database import Database
from .filesystem import advice
from .format import check_format
from .pool import WAL_PAGES
from .schema import PAGE_BYTES


def connect(filename: str, synchronous: Synchronous) -> apsw.Connection:
    """A connection that waits for nobody, overwrites what is deleted, and trusts nothing in the file.

    :raises UnknownFormat: when the file was written by a newer version of this package, or by another program
    """
    # Without SQLITE_OPEN_CREATE a file that has gone is an error, not an empty database in its place.
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
    connection = apsw.Connection(filename, flags=flags)
    for pragma in (
        f"synchronous = {synchronous}",
        "secure_delete = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        f"journal_size_limit = {WAL_PAGES * PAGE_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    check_format(connection, filename)
    return connection


def use_wal(database: Database, filename: str, timeout: float) -> None:
    """Let readers and a writer work side by side, and freed pages go back to the file system.

    :raises UnsuitableFilesystem: when that is not possible where the file lies
    :raises StorageBusy: when others keep the database locked for longer than ``timeout`` seconds
    """
    # Several processes may start at once, and SQLite's busy handler is not asked while the mode changes.
    deadline = time.monotonic() + timeout
    while True:
        try:
            mode = database.select("PRAGMA journal_mode")
            if mode != [("wal",)]:  # To set it again would write, which a full disk does not let it.
                database.select("PRAGMA auto_vacuum = INCREMENTAL")
                mode = database.select("PRAGMA journal_mode = WAL")
        except StorageBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode not in ([("wal",)], [("memory",)]):
            raise UnsuitableFilesystem(advice(filename, "SQLite cannot share memory there"))
        return
