"""Another SQLite library opens the file in the app's own process, as sqlite3.connect() does, and closes it.

POSIX drops all locks of a process on a file when it closes any descriptor of it, so that library believes to be the
last user of the database, and removes the WAL: https://www.sqlite.org/howtocorrupt.html, section 2.2. What is written
while it opens and closes the file cannot be kept; all that comes after it is.

Promises: docs/reliability.md, "Where it runs".
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import soak
from backends import Child
from flask import Flask

from flask_dash_store import StorageError, UserStore, UserStoreMiddleware

SECRET = "only for these tests"
TIMES = soak.repeats(ci=10, soak=200)
LATER = {f"later-{n}": n for n in range(100)}

READ = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute('SELECT COUNT(*) FROM "values"').fetchone()[0])
connection.close()
"""


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


def write_until(store: UserStore, name: str, is_over: Callable[[], bool]) -> None:
    while not is_over():
        store.increment(name)


def write_in_many_threads(path: Path, other_is_ready: Path, is_over: Path) -> None:
    store = open_store(path)
    stop = threading.Event()
    threads = [threading.Thread(target=write_until, args=(store, f"thread-{n}", stop.is_set)) for n in range(4)]
    for thread in threads:
        thread.start()
    while not other_is_ready.exists():
        store.increment("waited")
    for n in range(TIMES):
        read_and_close(path)
        store[f"between-{n}"] = n
    stop.set()
    for thread in threads:
        thread.join()
    write_all(store, LATER)
    is_over.touch()


def write_beside(path: Path, is_ready: Path, is_over: Path) -> None:
    store = open_store(path)
    store.increment("beside")
    is_ready.touch()
    write_until(store, "beside", is_over.exists)


@pytest.mark.timeout(300)
def test_with_many_writers_in_two_processes_nothing_is_damaged_and_what_comes_after_it_stays(tmp_path: Path) -> None:
    path, is_ready, is_over = tmp_path / "store.sqlite", tmp_path / "ready", tmp_path / "over"
    beside = Child("spawn", write_beside, path, is_ready, is_over)
    assert Child("spawn", write_in_many_threads, path, is_ready, is_over).outcome() is None
    assert beside.outcome() is None
    found = Child("spawn", stored, path).outcome()
    assert {key: found.get(key) for key in LATER} == LATER
    said = subprocess.run([sys.executable, "-c", READ, path], check=True, capture_output=True, text=True, timeout=60)
    assert int(said.stdout) == len(found)
