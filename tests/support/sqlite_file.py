"""The file of a SQLite store, looked at and changed past the package.

It is opened with the package's own library: closing it with another one in the same process would drop the storage's
locks (https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from flask_dash_store.storage.sqlite import SqliteStorage


def execute(database: Path, sql: str, args: Any = ()) -> list[tuple[Any, ...]]:
    """The rows of a statement that another program runs on the file."""
    connection = apsw.Connection(str(database))
    try:
        return connection.execute(sql, args).fetchall()
    finally:
        connection.close()


def named_files(database: Path) -> set[str]:
    """The names of the files of large values that rows refer to; any other is an orphan."""
    return {name for (name,) in execute(database, 'SELECT file FROM "values" WHERE file IS NOT NULL')}


def problems(database: Path) -> list[str]:
    storage = SqliteStorage(database)
    try:
        return list(storage.problems())
    finally:
        storage.close()
