"""The PostgreSQL storage: what it costs, whom it holds up, and what it makes of other versions and other values.

What every storage promises is in test_storage_contract.py.
"""

from __future__ import annotations

import mmap
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from backends import Child, items, large, postgresql, read, small
from clocks import HandClock
from servers_postgresql import shared_url

from flask_dash_store.buffers import Buffers
from flask_dash_store.errors import ConfigurationError, StorageBusy, TooManyKeys, UnknownFormat, ValueTooLarge
from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.owner import user_owner
from flask_dash_store.storage.base import Storage
from flask_dash_store.storage.postgresql import PostgresqlStorage
from flask_dash_store.storage.postgresql.connection import MAX_VALUE_BYTES
from flask_dash_store.storage.postgresql.connection import Connection as PostgresqlConnection

TTL = 1000.0
MOMENT = ExpiryPolicy(TTL, HandClock()).access()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[psycopg.Connection[Any]]:
    """The connections to PostgreSQL that the storage opens."""
    connections: list[psycopg.Connection[Any]] = []
    open_connection = PostgresqlConnection.open

    def open_and_note(*args: Any) -> PostgresqlConnection:
        connections.append(open_connection(*args))
        return connections[-1]

    monkeypatch.setattr(PostgresqlConnection, "open", open_and_note)
    return connections


@pytest.fixture
def storage(opened: list[psycopg.Connection[Any]], tmp_path: Path) -> Iterator[Storage]:
    storage = postgresql(tmp_path, timeout=30)
    yield storage
    storage.close()


# Costs


@contextmanager
def traced(opened: list[psycopg.Connection[Any]], file: Path) -> Iterator[list[str]]:
    """The messages to (F) and from (B) the server in this block, as libpq has seen them on the one connection."""
    (connection,) = (each for each in opened if not each.closed)
    messages: list[str] = []
    with file.open("w") as trace:
        connection.pgconn.trace(trace.fileno())
        try:
            yield messages
        finally:
            connection.pgconn.untrace()
    messages += [line.split("\t")[3] for line in file.read_text().splitlines() if line.count("\t") > 2]


CALLS: dict[str, tuple[Any, ...]] = {
    "get": ("k", MOMENT),
    "has": ("k", MOMENT),
    "keys": (MOMENT,),
    "items": (MOMENT,),
    "count": (MOMENT,),
    "expiry": (MOMENT,),
    "nbytes": (MOMENT,),
    "set": ("k", large(b"larger than it was"), MOMENT),
    "expire": ("k", MOMENT.now + 1, MOMENT),
    "delete": ("k", MOMENT),
    "clear": (MOMENT,),
    "end": (MOMENT,),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_round_trip(opened, storage, tmp_path, name) -> None:
    storage.set("ann", "k", small(b"v"), MOMENT)
    with traced(opened, tmp_path / "trace") as messages:
        getattr(storage, name)("ann", *CALLS[name])
    assert messages.count("ReadyForQuery") == 1


def test_a_change_in_a_transaction_is_four_round_trips(opened, storage, tmp_path) -> None:
    with traced(opened, tmp_path / "trace") as messages, storage.transaction("ann"):
        storage.get("ann", "k", MOMENT)
        storage.set("ann", "k", small(b"v"), MOMENT)
    assert messages.count("ReadyForQuery") == 4


# Whom it holds up


def test_a_transaction_holds_up_its_owner_alone(storage, tmp_path) -> None:
    impatient = postgresql(tmp_path, timeout=0.05)
    for owner in ["ann", "bob", "stale"]:
        impatient.set(owner, "cut", small(b""), MOMENT, MOMENT.now + 1)
        impatient.set(owner, "k", small(b"old"), MOMENT)
    later = MOMENT._replace(now=MOMENT.expires, expires=MOMENT.expires + TTL)
    with ThreadPoolExecutor(1) as thread, storage.transaction("ann"):
        storage.set("ann", "k", small(b"new"), MOMENT)

        def others() -> None:
            impatient.set("bob", "k", small(b"new"), later)
            impatient.set("bob", "cut", small(b""), later, later.now)
            with impatient.transaction("bob"):
                assert impatient.get("ann", "k", MOMENT) == small(b"old")
            assert impatient.purge(later.now, 0, 10) == impatient.purge_keys(later.now, 10) == 1
            with pytest.raises(StorageBusy, match="not to wait"):
                impatient.purge_keys(later.now, 10)
            assert impatient.owners("", MOMENT) == ["ann", "bob"]
            with pytest.raises(StorageBusy, match="timeout="):
                impatient.purge(later.now, 0, 10, wait=True)

        thread.submit(others).result(timeout=30)
    assert impatient.purge(later.now, 0, 10) == 1
    impatient.close()


def test_transactions_that_wait_for_each_other_end_with_an_error_for_one_of_them(tmp_path) -> None:
    storage = postgresql(tmp_path, timeout=0.3)
    both_began = threading.Barrier(2)

    def write(first: str, second: str) -> None:
        with storage.transaction(first):
            storage.set(first, first, small(b""), MOMENT)
            both_began.wait(timeout=30)
            storage.set(second, first, small(b""), MOMENT)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(write, "ann", "bob"), pool.submit(write, "bob", "ann")]
        errors = [future.exception(timeout=30) for future in futures]
    assert any(isinstance(error, StorageBusy) for error in errors)
    kept = {"ann", "bob"} - {name for name, error in zip(["ann", "bob"], errors, strict=True) if error}
    assert set(storage.keys("ann", MOMENT)) == set(storage.keys("bob", MOMENT)) == kept
    storage.close()


def count(storage: Storage, threads: int, times: int) -> None:
    def one_thread(_: int) -> None:
        for _ in range(times):
            with storage.transaction("ann"):
                stored = storage.get("ann", "n", MOMENT)
                storage.set("ann", "n", small(b"%d" % (1 + int(stored[0] if stored else 0))), MOMENT)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one_thread, range(threads)))


def test_6400_increments_of_many_threads_of_many_processes_are_6400(tmp_path) -> None:
    storage = postgresql(tmp_path, timeout=60)
    children = [Child("fork", count, storage, 4, 400) for _ in range(3)]
    count(storage, 4, 400)
    assert [child.outcome() for child in children] == [None] * 3
    assert storage.get("ann", "n", MOMENT) == small(b"6400")
    storage.close()


# Tables


def start_and_write(folder: Path, worker: int, starts: int, together: Barrier) -> None:
    try:
        for start in range(starts):
            together.wait(timeout=30)
            storage = postgresql(folder / str(start), timeout=30)
            storage.set("ann", str(worker), small(b""), MOMENT)
            storage.close()
    except BaseException:
        together.abort()  # or the others would wait
        raise


def test_processes_that_make_the_tables_at_once_all_write_to_them(tmp_path) -> None:
    shared_url()  # which they inherit
    together = get_context("spawn").Barrier(3)
    workers = [Child("spawn", start_and_write, tmp_path, worker, 12, together) for worker in range(3)]
    assert [worker.outcome() for worker in workers] == [None] * 3
    for start in range(12):
        storage = postgresql(tmp_path / str(start))
        assert sorted(storage.keys("ann", MOMENT)) == ["0", "1", "2"]
        storage.close()


def test_tables_of_a_newer_version_are_refused_and_left_as_they_are(opened, storage, tmp_path) -> None:
    storage.set("ann", "k", small(b"v"), MOMENT)
    opened[-1].execute("UPDATE format SET number = number + 1")
    with pytest.raises(UnknownFormat, match="newer version"):
        postgresql(tmp_path)
    assert storage.get("ann", "k", MOMENT) == small(b"v")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://host/db?colour=green", "query parameter"),
        ("postgresql+psycopg://host/db", "begin with postgresql://"),
        ("postgresql://host/db?schema=", "schema="),
        ("postgresql://host/db?schema=" + "x" * 64, "schema="),
    ],
)
def test_a_url_that_cannot_be_used_is_a_configuration_error(url, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PostgresqlStorage(url)


@pytest.mark.parametrize("schema", ["public", 'with "quotes" & 100%', "Ünïcode"])
def test_the_url_names_the_schema(schema) -> None:
    storage = PostgresqlStorage(f"{shared_url()}&schema={quote(schema)}")
    storage.set("ann", "k", small(b"v"), MOMENT)
    with psycopg.connect(shared_url()) as connection:
        query = "SELECT schemaname FROM pg_tables WHERE tablename = 'sessions' AND schemaname = %s"
        assert connection.execute(query, (schema,)).fetchall() == [(schema,)]
    storage.close()


def test_a_missing_driver_says_what_to_install() -> None:
    code = "import sys; sys.modules['psycopg'] = None; import flask_dash_store.storage.postgresql"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ConfigurationError" in done.stderr
    assert "pip install 'flask_dash_store[postgresql]'" in done.stderr


# Values


def test_a_value_of_many_megabytes_comes_back_whole_and_in_one_piece_that_can_be_written(storage) -> None:
    parts = [bytes(range(256)) * 40_000, b"odd", bytes(20_000_000)]
    sent = Buffers(token_hex(16), [memoryview(part) for part in parts])
    storage.set("ann", "k", (b"payload", sent), MOMENT)
    payload, body = storage.get("ann", "k", MOMENT)
    (whole,) = body.parts
    assert (payload, body.name, whole.readonly, whole.nbytes) == (b"payload", sent.name, False, sent.nbytes)
    assert [whole[offset : offset + part.nbytes] == part for offset, part in sent.placed()] == [True] * 3


def test_a_value_larger_than_postgresql_takes_is_refused_with_the_limit(storage) -> None:
    whole = memoryview(mmap.mmap(-1, 2**30))  # which takes no memory until it is touched
    with pytest.raises(ValueTooLarge, match=f"{2**30 + 1} bytes.* takes {MAX_VALUE_BYTES}"):
        storage.set("ann", "k", (b"x", Buffers(token_hex(16), [whole])), MOMENT)
    assert storage.keys("ann", MOMENT) == []


def test_owners_whose_names_are_longer_than_an_index_takes_do_not_meet(storage) -> None:
    letters = Random(0)
    long = "".join(chr(letters.randrange(0x10000, 0x110000)) for _ in range(511))  # which cannot be compressed
    owners = [user_owner(long + end) for end in ["🦆", "🦢", ""]]
    for owner in owners:
        storage.set(owner, "k", small(owner.encode()), MOMENT)
    assert [items(storage, owner, MOMENT) for owner in owners] == [[("k", owner.encode())] for owner in owners]
    assert storage.owners(owners[2], MOMENT) == sorted(owners)
    assert sorted(storage.everyone()) == sorted(owners)


def test_what_was_dumped_is_loaded_whole_in_the_place_of_what_was_there(storage, tmp_path) -> None:
    storage.set("ann", "first", large(b"1"), MOMENT, MOMENT.now + 5)
    storage.set("ann", "after", small(b"2"), MOMENT)
    storage.set("bob", "old", large(b"old"), MOMENT)
    storage.end("gone", MOMENT)
    for source, target in [("ann", "bob"), ("gone", "cid"), ("gone", "ann")]:
        dump = storage.dump(source)
        assert dump is not None
        storage.load(target, dump)
        copy = storage.dump(target)
        assert copy is not None
        assert copy[:2] == dump[:2]
        assert [(k, read(v), e) for k, v, e in copy.values] == [(k, read(v), e) for k, v, e in dump.values]
    assert items(storage, "bob", MOMENT) == [("first", b"1"), ("after", b"2")]
    assert storage.dump("nobody") is None
    limited = postgresql(tmp_path, max_keys=1)
    limited.load("bob", storage.dump("bob"))
    with pytest.raises(TooManyKeys, match="max_keys="):
        limited.set("bob", "third", small(b""), MOMENT)
    limited.close()
    assert sorted(storage.everyone()) == ["ann", "bob", "cid", "gone"]
