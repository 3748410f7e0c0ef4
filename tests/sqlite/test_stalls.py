"""What needs no lock is done before it is acquired, and the WAL has a bound while readers always overlap.

Promise: docs/reliability.md, "Visitors do not make each other wait".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from flask import Flask

from flask_dash_store import NotANumber, QuotaExceeded, UserStore, UserStoreMiddleware
from flask_dash_store.expiry import Access
from flask_dash_store.owner import Owner
from flask_dash_store.storage.sqlite import SqliteStorage
from flask_dash_store.storage.sqlite.checkpoint import HUGE_WAL_PAGES, WAL_PAGES
from flask_dash_store.storage.sqlite.schema import PAGE_BYTES

NOW = Access(1000, 2000, 0)
ANN = Owner("u.ann")
MIB = 2**20


@pytest.fixture
def store(connections: list[apsw.Connection], tmp_path: Path) -> UserStore:
    app = Flask("stalls")
    app.secret_key = "k" * 32
    store = UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite", max_bytes=4 * MIB).for_user("ann")
    store["base"] = 0
    return store


# Before the lock is acquired


def test_update_has_written_every_file_before_its_transaction_begins(
    connections: list[apsw.Connection], store: UserStore, tmp_path: Path
) -> None:
    written = []

    def trace(_: object, sql: str, __: object) -> bool:
        if sql == "BEGIN IMMEDIATE":
            written.append(sorted(path.stat().st_size for path in tmp_path.glob("store.sqlite.buffers/*")))
        return True

    connections[-1].exec_trace = trace
    store.update(small=1, array=np.zeros(100_000), text="x" * 500_000)
    connections[-1].exec_trace = None
    assert [[size > 500_000 for size in sizes] for sizes in written] == [[True, True]]
    assert list(store) == ["base", "small", "array", "text"]


def test_an_update_that_is_refused_leaves_no_file(store: UserStore, tmp_path: Path) -> None:
    with pytest.raises(QuotaExceeded):
        store.update(small=1, array=np.zeros(100_000), text="x" * 4 * MIB)
    assert list(tmp_path.glob("store.sqlite.buffers/*")) == []
    assert store.copy() == {"base": 0}


class Large:
    """Says, when it is pickled and unpickled, whether the lock was held by then."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def __getstate__(self) -> bytes:
        note_lock()
        return self.payload

    def __setstate__(self, payload: bytes) -> None:
        note_lock()
        self.payload = payload


looked_at: list[apsw.Connection] = []
held: list[bool] = []


def note_lock() -> None:
    for connection in looked_at:
        with suppress(apsw.ConnectionClosedError):
            held.append(connection.in_transaction)


@pytest.fixture
def lock(connections: list[apsw.Connection]) -> Iterator[list[bool]]:
    """Whether the lock was held, each time that a Large was pickled or unpickled."""
    looked_at.extend(connections)
    yield held
    looked_at.clear()
    held.clear()


def refused(store: UserStore) -> None:
    with pytest.raises(NotANumber):
        store.increment("large")


CALLS: dict[str, Callable[[UserStore], Any]] = {
    "set": lambda store: store.__setitem__("large", Large(bytes(MIB))),
    "update": lambda store: store.update(large=Large(bytes(MIB)), more=Large(bytes(MIB))),
    "setdefault": lambda store: (store.setdefault("new", Large(bytes(MIB))), store.setdefault("large", 1)),
    "pop": lambda store: store.pop("large"),
    "popitem": lambda store: store.popitem(),
    "copy": lambda store: store.copy(),
    "increment": refused,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_large_value_is_pickled_or_unpickled_while_the_lock_is_held(
    store: UserStore, lock: list[bool], call: Callable[[UserStore], Any]
) -> None:
    store["large"] = Large(bytes(MIB))
    lock.clear()
    call(store)
    assert lock
    assert not any(lock)


def test_popitem_takes_the_key_that_was_inserted_while_it_read_another(store: UserStore) -> None:
    class Inserts:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return insert_once, ()

    inserts.append(lambda: store.__setitem__("later", "last"))
    store["first"] = Inserts()
    assert [store.popitem() for _ in range(3)] == [("later", "last"), ("first", "inserted"), ("base", 0)]


inserts: list[Callable[[], Any]] = []


def insert_once() -> str:
    while inserts:
        inserts.pop()()
    return "inserted"


# The WAL


def test_the_wal_has_a_bound_while_readers_always_overlap(tmp_path: Path) -> None:
    storage, wal = SqliteStorage(tmp_path / "store.sqlite"), tmp_path / "store.sqlite-wal"
    longest = 0
    with overlapping_readers(tmp_path / "store.sqlite"):
        for n in range(3 * HUGE_WAL_PAGES * PAGE_BYTES // 100_000):
            storage.set(ANN, "k", (bytes([n % 256]) * 100_000, None), NOW)
            if storage.needs_maintenance:
                storage.maintain(NOW.now, 0)
            longest = max(longest, wal.stat().st_size)
    storage.close()
    assert longest < (HUGE_WAL_PAGES + 2 * WAL_PAGES) * PAGE_BYTES


@contextmanager
def overlapping_readers(path: Path) -> Iterator[None]:
    """Two readers, each of which ends a read, and begins another, while the other one is in the middle of its own."""
    is_over = threading.Event()
    may_end = [threading.Semaphore(0), threading.Semaphore(0)]

    def begin(connection: apsw.Connection) -> None:
        connection.execute("BEGIN")
        connection.execute('SELECT COUNT(*) FROM "values"').fetchall()

    def read(number: int) -> None:
        connection = connections[number]
        while not is_over.is_set():
            if may_end[number].acquire(timeout=0.1):
                connection.execute("COMMIT")
                begin(connection)
                may_end[1 - number].release()

    connections = [apsw.Connection(str(path)) for _ in range(2)]
    threads = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for connection, thread in zip(connections, threads, strict=True):
        begin(connection)
        thread.start()
    may_end[0].release()
    try:
        yield
    finally:
        is_over.set()
        for connection, thread in zip(connections, threads, strict=True):
            thread.join()
            connection.close()
