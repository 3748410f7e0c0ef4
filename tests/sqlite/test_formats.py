"""A file says its format: an older one is read and upgraded, a newer one and another program's are left as they are.

Promises: docs/reliability.md, "Two versions on one file".
"""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
import sqlite_file
from faults import fork_and_exit
from flask import Flask
from flask_dash_store.storage.sqlite.format import APPLICATION_ID, FORMAT
from sqlite_file import execute

from flask_dash_store import DashDatabase, TooManyKeys, UnknownFormat, UserStore, UserStoreMiddleware

SECRET = "k" * 32
LARGE = "x" * 200_000

FORMAT_1 = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
CREATE TABLE "values" (key TEXT PRIMARY KEY, value BLOB, expires REAL, file TEXT,
    file_bytes INTEGER NOT NULL DEFAULT 0, boot TEXT);
CREATE TABLE "sessions" (key TEXT PRIMARY KEY, value BLOB, bytes INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX "sessions_by_key" ON "sessions" (key, value);
CREATE INDEX "sessions_by_expiry" ON "sessions" (value);
CREATE INDEX "values_by_expiry" ON "values" (expires) WHERE expires IS NOT NULL;
CREATE INDEX "values_by_file" ON "values" (file) WHERE file IS NOT NULL;
"""


def open_store(database: Path, user: str = "ann", **options: object) -> UserStore:
    app = Flask("formats")
    app.secret_key = SECRET
    return UserStoreMiddleware(app, url=f"sqlite:///{database}", **options).for_user(user)


def pragmas(database: Path) -> tuple[int, int]:
    [(application_id, user_version)] = execute(
        database, "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
    )
    return application_id, user_version


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def format_1(database: Path) -> Path:
    """A file as version 0.1 left it, with values of ann and bob."""
    with DashDatabase(database, secret_key=SECRET) as stores:
        stores.store_user_value("ann", "small", 1)
        stores.store_user_value("ann", "large", LARGE)
        stores.store_user_value("ann", "passing", 3, ttl=3600)
        stores.store_user_value("bob", "small", 2)
    older = database.with_name("older")
    connection = apsw.Connection(str(older))
    for sql in (
        FORMAT_1,
        f"ATTACH '{database}' AS present",
        'INSERT INTO "values" SELECT key, value, expires, file, file_bytes, boot FROM present."values"',
        'INSERT INTO "sessions" SELECT key, value, bytes FROM present."sessions"',
    ):
        connection.execute(sql).fetchall()
    connection.close()
    older.rename(database)
    return database


def test_a_new_file_says_its_format(database: Path) -> None:
    open_store(database)["key"] = 1
    assert pragmas(database) == (APPLICATION_ID, FORMAT)


def test_format_1_is_read_counted_and_upgraded(format_1: Path) -> None:
    assert pragmas(format_1) == (0, 0)
    store = open_store(format_1, max_keys=3)
    assert store.copy() == {"small": 1, "large": LARGE, "passing": 3}
    assert open_store(format_1, "bob").copy() == {"small": 2}
    assert pragmas(format_1) == (APPLICATION_ID, FORMAT)
    with pytest.raises(TooManyKeys):
        store["fourth"] = 4
    del store["small"]
    store["fourth"] = 4
    assert sqlite_file.problems(format_1) == []


@pytest.mark.parametrize("version", [FORMAT + 1, 1000])
def test_a_newer_format_is_refused_and_left_as_it_is(database: Path, version: int) -> None:
    with DashDatabase(database, secret_key=SECRET) as stores:
        stores.store_user_value("ann", "key", 1)
    execute(database, f"PRAGMA user_version = {version}")
    before = database.read_bytes()
    with pytest.raises(UnknownFormat, match=rf"format {version}.*pip install --upgrade"):
        open_store(database)
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA application_id = 42; CREATE TABLE notes (text)",
        "PRAGMA user_version = 1; CREATE TABLE notes (text)",
        "CREATE TABLE sessions (id INTEGER, name TEXT)",
        'CREATE TABLE sessions (key TEXT, value BLOB); CREATE TABLE "values" (key TEXT, value BLOB)',
    ],
    ids=["another id", "another version", "a table of that name", "sqlitedict's own"],
)
def test_the_file_of_another_program_is_refused_and_left_as_it_is(database: Path, sql: str) -> None:
    database.touch(0o644)
    execute(database, sql)
    before = database.read_bytes()
    with pytest.raises(UnknownFormat, match="another program"):
        open_store(database)
    assert database.read_bytes() == before
    assert database.stat().st_mode & 0o777 == 0o644
    assert [path for path in database.parent.iterdir() if path.is_file()] == [database]


def test_a_server_that_runs_while_a_newer_version_upgrades_the_file_opens_no_new_connection(database: Path) -> None:
    store = open_store(database)
    store["key"] = 1
    execute(database, f"PRAGMA user_version = {FORMAT + 1}")
    fork_and_exit()  # Now it has to open one.
    with pytest.raises(UnknownFormat):
        store["key"] = 2
    with pytest.raises(UnknownFormat):
        store["key"]
    execute(database, f"PRAGMA user_version = {FORMAT}")
    assert store["key"] == 1
