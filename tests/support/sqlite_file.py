"""The file of a SQLite store, looked at and changed past the package.

It is opened with the package's own library: closing it with another one in the same process would drop the storage's
locks (https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw

from flask_dash_store.storage.sqlite import SqliteStorage

WRITE_WITH_SQLITEDICT = """
import json, sys
from sqlitedict import SqliteDict
with SqliteDict(sys.argv[1], tablename="values", journal_mode="WAL", autocommit=True) as table:
    for change in json.loads(sys.argv[2]):
        if change[1] is None:
            del table[change[0]]
        else:
            table[change[0]] = change[1]
"""


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


def run(script: str, *args: object) -> str:
    """What a script prints that runs in a Python of its own."""
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def purge(storage: SqliteStorage, now: float) -> int:
    """How many owners maintenance removes until there is no more to do."""
    removed = storage.maintain(now, 0, wait=True)
    return removed.owners + (purge(storage, now) if removed.has_more else 0)
