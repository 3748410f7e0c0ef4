"""Another SQLite library opens the file in the app's own process, as sqlite3.connect() does, and closes it.

POSIX drops all locks of a process on a file when it closes any descriptor of it, so that library believes to be the
last user of the database, and removes the WAL: https://www.sqlite.org/howtocorrupt.html, section 2.2. What this process
writes while the file is closed cannot be kept, and threads of it that write then can damage the file; all that comes
after it is kept.

Promises: docs/reliability.md, "Where it runs".
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import soak
import sqlite_file
from backends import Child
from flask import Flask

from flask_dash_store import StorageError, UserStore, UserStoreMiddleware

SECRET = "only for these tests"
TIMES = soak.repeats(ci=10, soak=200)
LATER = {f"later-{n}": n for n in range(100)}


def open_store(path: Path) -> UserStore:
    app = Flask("two libraries")
    app.secret_key = SECRET
    return UserStoreMiddleware(app, url=f"sqlite:///{path}", timeout=30).for_user("ann")


def read_and_close(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('SELECT COUNT(*) FROM "values"').fetchall()


def leave_wal_mode(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()


def remove_all_it_can(path: Path) -> None:
    read_and_close(path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def write_all(store: UserStore, values: dict[str, int]) -> None:
    for key, value in values.items():
        store[key] = value


def stored(path: Path) -> dict[str, int]:
    """What a new process finds, which has neither connection nor lock."""
    return open_store(path).copy()


@pytest.mark.parametrize("disturb", [read_and_close, leave_wal_mode, remove_all_it_can])
def test_all_that_is_written_after_the_wal_was_removed_stays(tmp_path: Path, disturb) -> None:
    path = tmp_path / "store.sqlite"
    store = open_store(path)
    store["before"] = 1
    disturb(path)
    write_all(store, LATER)
    assert store == {"before": 1, **LATER}
    assert Child("spawn", stored, path).outcome() == {"before": 1, **LATER}


def test_a_transaction_that_is_open_meanwhile_is_rolled_back_with_an_error_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = open_store(path)
    store["before"] = 1
    with pytest.raises(StorageError, match="-wal file was removed"), store.transaction():
        store["before"] = 2
        read_and_close(path)
        store["inside"] = 1
    assert store == {"before": 1}
    write_all(store, LATER)
    assert Child("spawn", stored, path).outcome() == {"before": 1, **LATER}


def count_beside(path: Path, is_ready: Path, is_over: Path) -> int:
    store = open_store(path)
    count = 0
    while not is_over.exists():
        count = store.increment("beside")
        is_ready.touch()
    return count


@pytest.mark.timeout(300)
def test_another_process_that_writes_meanwhile_loses_nothing_and_neither_does_this_one(tmp_path: Path) -> None:
    path, is_ready, is_over = tmp_path / "store.sqlite", tmp_path / "ready", tmp_path / "over"
    beside = Child("spawn", count_beside, path, is_ready, is_over)
    while not is_ready.exists():
        time.sleep(0.01)
    store = open_store(path)
    for n in range(10 * TIMES):
        store[f"between-{n}"] = n
        read_and_close(path)
    write_all(store, LATER)
    is_over.touch()
    between = {f"between-{n}": n for n in range(10 * TIMES)}
    assert Child("spawn", stored, path).outcome() == {"beside": beside.outcome(), **between, **LATER}
    assert Child("spawn", sqlite_file.problems, path).outcome() == []
