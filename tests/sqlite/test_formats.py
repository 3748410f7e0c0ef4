"""A file says its format: one of another version of this package, or of another program, is left as it is.

Promises: docs/reliability.md, "Two versions on one file".
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import fork_and_exit
from flask import Flask
from sqlite_file import execute

from flask_dash_store import DashDatabase, UnknownFormat, UserStore, UserStoreMiddleware
from flask_dash_store.storage.sqlite.schema import APPLICATION_ID, FORMAT

SECRET = "k" * 32


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


def test_a_new_file_says_its_format(database: Path) -> None:
    open_store(database)["key"] = 1
    assert pragmas(database) == (APPLICATION_ID, FORMAT)


@pytest.mark.parametrize("version", [1, FORMAT - 1, FORMAT + 1, 1000])
def test_another_format_is_refused_and_left_as_it_is(database: Path, version: int) -> None:
    with DashDatabase(database, secret_key=SECRET) as stores:
        stores.store_user_value("ann", "key", 1)
    execute(database, f"PRAGMA user_version = {version}")
    before = database.read_bytes()
    with pytest.raises(UnknownFormat, match=rf"format {version}, .*format {FORMAT}.*the version that wrote it"):
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


def test_an_app_that_runs_while_another_version_changes_the_format_opens_no_new_connection(database: Path) -> None:
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
