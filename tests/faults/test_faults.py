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
from flask_dash_store.expiry import Access
from flask_dash_store.owner import user_owner
from flask_dash_store.storage.sqlite import SqliteStorage, checkpoint
from flask_dash_store.storage.sqlite.checkpoint import Checkpoints

LARGE = 200_000


def open_store(folder: Path, **options: Any) -> UserStore:
    app = Flask("faults", instance_path=str(folder))
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url="sqlite:///store.sqlite", **options).for_user("ann")


@pytest.fixture
def store(tmp_path: Path) -> UserStore:
    store = open_store(tmp_path)
    store["base"] = 0
    return store


def limit_pages(connections: list[apsw.Connection], pages: int) -> None:
    """Let the database grow by so many pages and no more, as on a disk that is nearly full."""
    writing = connections[-1]
    assert writing.in_transaction
    writing.execute(f"PRAGMA max_page_count = {writing.pragma('page_count') + pages}").fetchall()


def test_a_write_that_a_full_disk_refuses_inside_a_block_leaves_the_rest_of_the_block_as_it_was(
    connections: list[apsw.Connection], store: UserStore
) -> None:
    with store.transaction():
        store["first"] = 1
        limit_pages(connections, 3)
        with pytest.raises(StorageFull):
            store["second"] = os.urandom(100_000)
        store["third"] = 3
    assert store.copy() == {"base": 0, "first": 1, "third": 3}


def test_a_block_that_sqlite_has_rolled_back_by_itself_goes_on_with_errors_and_leaves_nothing(
    connections: list[apsw.Connection], store: UserStore
) -> None:
    """After some faults it does: https://www.sqlite.org/lang_transaction.html, section 3."""

    def go_on() -> None:
        with store.transaction():
            store["first"] = 1
            connections[-1].execute("ROLLBACK")
            for call in (lambda: store.update(second=2), lambda: store.get("base")):
                with pytest.raises(StorageError, match="rolled back"):
                    call()

    with pytest.raises(StorageError, match="rolled back"):
        go_on()
    assert store.copy() == {"base": 0}


def test_an_interrupt_right_after_the_commit_leaves_what_was_committed(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store["large"] = b"a" * LARGE

    def interrupt(_: Checkpoints) -> None:
        raise SystemExit

    monkeypatch.setattr(Checkpoints, "make_if_overdue", interrupt)
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


def test_a_key_that_is_not_text_is_an_error_of_our_own(store: UserStore, tmp_path: Path) -> None:
    store["bad"] = 1
    sqlite_file.execute(
        tmp_path / "store.sqlite",
        "UPDATE \"values\" SET key = CAST(x'752e616e6e2fff' AS TEXT) WHERE key LIKE '%/bad'",
    )
    with pytest.raises(StorageError):
        list(store)
    assert store["base"] == 0


def test_a_checkpoint_waits_for_no_transaction_longer_than_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SqliteStorage(tmp_path / "store.sqlite", timeout=0.2)
    ann, now = user_owner("ann"), Access(1000, 2000, 0)
    storage.set(ann, "key", (bytes(100_000), None), now)
    monkeypatch.setattr(checkpoint, "WAL_PAGES", 1)
    monkeypatch.setattr(checkpoint, "LONG_WAL_PAGES", 1)  # Now the checkpoint keeps out other writers.
    assert storage.needs_maintenance
    is_inside, may_leave = threading.Event(), threading.Event()

    def hold() -> None:
        with storage.transaction(ann):
            is_inside.set()
            may_leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_inside.wait(30)
    for call in (storage.maintain, storage.maintain):
        with pytest.raises(StorageBusy):
            call(now.now, 0)  # The transaction is still open.
    may_leave.set()
    thread.join()
    storage.maintain(now.now, 0)
    assert not storage.needs_maintenance
    storage.close()


def test_transactions_alone_keep_the_wal_short_where_no_response_is_sent(store: UserStore, tmp_path: Path) -> None:
    for n in range(1000):
        with store.transaction():
            store["key"] = bytes([n % 256]) * 100_000
    assert (tmp_path / "store.sqlite-wal").stat().st_size < 50_000_000


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
