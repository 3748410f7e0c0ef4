"""Faults in the middle of things leave nothing half-written, and are errors of the package's own.

Promises: docs/reliability.md, "All or nothing" and "Damage stays small".
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlite_file
from faults import fork_and_exit
from flask import Flask

from flask_dash_store import StorageBusy, StorageError, StorageFull, UserStore, UserStoreError, UserStoreMiddleware
from flask_dash_store.storage.sqlite.pool import Pool

LARGE = 200_000


def open_store(folder: Path, **options: Any) -> UserStore:
    app = Flask("faults", instance_path=str(folder))
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url="sqlite:///store.sqlite", **options).for_user("someone")


@pytest.fixture
def store(tmp_path: Path) -> UserStore:
    store = open_store(tmp_path)
    store["base"] = 0
    return store


def limit_pages(connections: list[apsw.Connection], pages: int) -> None:
    """Let the database grow by so many pages and no more, as on a disk that is nearly full."""
    (writing,) = (connection for connection in connections if connection.in_transaction)
    writing.execute(f"PRAGMA max_page_count = {writing.pragma('page_count') + pages}").fetchall()


def test_a_full_disk_inside_a_block_undoes_all_of_it_even_when_the_block_goes_on(
    connections: list[apsw.Connection], store: UserStore
) -> None:
    def go_on() -> None:
        with store.transaction():
            store["first"] = 1
            limit_pages(connections, 3)
            with pytest.raises(StorageFull):
                store["second"] = os.urandom(100_000)
            with pytest.raises(StorageError, match="undone"):
                store["third"] = 3

    with pytest.raises(StorageError, match="undone"):
        go_on()
    assert store.copy() == {"base": 0}


def test_an_interrupt_right_after_the_commit_leaves_what_was_committed(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store["large"] = b"a" * LARGE

    def interrupt(_: Pool) -> None:
        raise SystemExit

    monkeypatch.setattr(Pool, "checkpoint_if_overdue", interrupt)
    with pytest.raises(SystemExit):
        store["large"] = b"b" * LARGE
    assert store["large"] == b"b" * LARGE


DAMAGES = {
    "no payload": "UPDATE \"values\" SET value = NULL WHERE key LIKE '%/bad'",
    "a payload that is a number": "UPDATE \"values\" SET value = 5 WHERE key LIKE '%/bad'",
    "a file that is a number": "UPDATE \"values\" SET file = 5 WHERE key LIKE '%/bad'",
    "a file that is a path": "UPDATE \"values\" SET file = '../../x' WHERE key LIKE '%/bad'",
    "a count that is a text": "UPDATE \"sessions\" SET bytes = 'x'",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_costs_its_key_alone_and_can_be_replaced(store: UserStore, tmp_path: Path, damage: str) -> None:
    store["bad"] = 1
    sqlite_file.execute(tmp_path / "store.sqlite", DAMAGES[damage])
    assert store["base"] == 0
    if "count" not in damage:
        with pytest.raises(UserStoreError):
            store["bad"]
    store["bad"] = "x" * 1000
    assert store.copy() == {"base": 0, "bad": "x" * 1000}
    assert store.nbytes > 1000
    del store["bad"]
    assert store.copy() == {"base": 0}


def test_a_key_that_is_no_text_is_an_error_of_our_own(store: UserStore, tmp_path: Path) -> None:
    store["bad"] = 1
    sqlite_file.execute(
        tmp_path / "store.sqlite",
        "UPDATE \"values\" SET key = CAST(x'752e736f6d656f6e652fff' AS TEXT) WHERE key LIKE '%/bad'",
    )
    with pytest.raises(StorageError):
        list(store)
    assert store["base"] == 0


def test_a_checkpoint_waits_for_no_block_longer_than_the_timeout(tmp_path: Path) -> None:
    store = open_store(tmp_path, timeout=0.2)
    pool = store._storage._database._pool  # noqa: SLF001
    is_inside, may_leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.transaction():
            is_inside.set()
            may_leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_inside.wait(30)
    pool._wal_pages = 10**9  # noqa: SLF001
    pool.checkpoint_if_due()  # It returns while the block is still open.
    with pytest.raises(StorageBusy):
        store["key"] = 1
    may_leave.set()
    thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fork_that_is_interrupted_while_it_waits_does_not_stop_the_next(tmp_path: Path) -> None:
    store = open_store(tmp_path, timeout=30)
    is_inside, may_leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.transaction():
            is_inside.set()
            may_leave.wait(60)

    def interrupt(*_: Any) -> None:
        raise InterruptedError

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_inside.wait(30)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        fork_and_exit()  # Python prints what a hook raises, and forks.
    finally:
        signal.signal(signal.SIGALRM, before)
        may_leave.set()
        thread.join()
    fork_and_exit()
    store["key"] = 1
    assert store["key"] == 1
