"""Which format a database file has, and how an older one becomes the present one.

The number is SQLite's ``user_version``, and ``application_id`` says that the file is this package's.

1. Neither was set, and ``sessions`` did not count the keys.
2. The present one.
"""

from __future__ import annotations

import apsw

from ...errors import UnknownFormat
from . import schema
from .database import Database
from .transaction import Transaction

FORMAT = 2
APPLICATION_ID = int.from_bytes(b"fds\0")


def check_format(connection: apsw.Connection, filename: str) -> None:
    """Look at the file before anything is done with it.

    :raises UnknownFormat: when it was written by a newer version of this package, or by another program
    """
    found = connection.pragma("user_version")
    application = connection.pragma("application_id")
    if application not in (0, APPLICATION_ID) or (application == 0 and found):
        raise UnknownFormat(f"The storage file {filename} belongs to another program. Name another file.")
    if found > FORMAT:
        raise UnknownFormat(
            f"The storage file {filename} has format {found}, from a newer flask_dash_store; this one reads formats "
            f"up to {FORMAT}. Install that version: pip install --upgrade flask_dash_store."
        )


def check_tables(database: Database, filename: str) -> None:
    """Look at the tables of a file that nothing has been written to yet.

    :raises UnknownFormat: when tables of these names are another program's
    """
    for table, columns in (("values", {"expires", "file"}), ("sessions", {"value", "bytes"})):
        found = {row[1] for row in database.select(f'PRAGMA table_info("{table}")')}
        if found and not columns <= found:
            raise UnknownFormat(f"The storage file {filename} has tables of another program. Name another file.")


def upgrade(transaction: Transaction) -> None:
    """Give the file the present format, whatever older one it has, or none."""
    if transaction.execute("PRAGMA user_version") == [(FORMAT,)]:
        return
    columns = {row[1] for row in transaction.execute('PRAGMA table_info("sessions")')}
    if columns and "keys" not in columns:
        for statement in schema.FROM_FORMAT_1:
            transaction.execute(statement)
    transaction.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    transaction.execute(f"PRAGMA user_version = {FORMAT}")
