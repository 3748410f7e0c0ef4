"""The PostgreSQL storage: what it costs, which calls wait, and what it does with other versions and other values.

What every storage promises is in test_storage_contract.py.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
import warnings
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
import psycopg.sql
import pytest
from backends import TTL, Child, digest, items, large, open_url, owner, postgresql, read, small
from clocks import HandClock
from servers_postgresql import shared_url

from flask_dash_store.buffers import Buffers
from flask_dash_store.errors import (
    ConfigurationError,
    QuotaExceeded,
    SessionEnded,
    StorageBusy,
    TooManyKeys,
    UnknownFormat,
    ValueTooLarge,
)
from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.owner import Owner, user_owner
from flask_dash_store.storage import Storage
from flask_dash_store.storage.base import ExpiryLimit, Removed
from flask_dash_store.storage.postgresql import PostgresqlStorage
from flask_dash_store.storage.postgresql.connection import Connection as PostgresqlConnection
from flask_dash_store.storage.postgresql.schema import MAX_VALUE_BYTES

ACCESS = ExpiryPolicy(TTL, HandClock()).access()
LATER = ACCESS._replace(now=ACCESS.expires, expires=ACCESS.expires + TTL)
ANN, BOB, STALE = (owner(f"s.{name}") for name in ("ann", "bob", "stale"))
NEW_ANN = owner("s.ann", "new id")


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
def storage(opened: list[psycopg.Connection[Any]], tmp_path: Path) -> Iterator[PostgresqlStorage]:
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
    "get": ("k", ACCESS),
    "has": ("k", ACCESS),
    "keys": (ACCESS,),
    "items": (ACCESS,),
    "stat": (ACCESS,),
    "set": ("k", large(b"larger than it was"), ACCESS),
    "set_all": ([(f"{n}", small(b"v")) for n in range(1000)], ACCESS),
    "expire": ("k", ACCESS.now + 1, ACCESS),
    "delete": ("k", ACCESS),
    "clear": (ACCESS,),
    "renew": (NEW_ANN.session, ACCESS, digest("user")),
    "end": (ACCESS,),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_round_trip(opened, storage, tmp_path, name) -> None:
    storage.set(ANN, "k", small(b"v"), ACCESS)
    with traced(opened, tmp_path / "trace") as messages:
        getattr(storage, name)(ANN, *CALLS[name])
    assert messages.count("ReadyForQuery") == 1


def test_a_change_in_a_transaction_is_four_round_trips(opened, storage, tmp_path) -> None:
    storage.set(ANN, "k", small(b"v"), ACCESS)
    with traced(opened, tmp_path / "trace") as messages, storage.transaction(ANN):
        storage.get(ANN, "k", ACCESS)
        storage.set(ANN, "k", small(b"v"), ACCESS)
    assert messages.count("ReadyForQuery") == 4


@pytest.mark.parametrize("name", ["stat", "has", "renew", "clear", "end"])
def test_a_call_that_lists_nothing_reads_and_writes_as_much_with_10000_keys_as_with_few(opened, storage, name) -> None:
    storage.set_all(ANN, [(f"{n}", small(b"")) for n in range(9999)], ACCESS)
    storage.set(ANN, "k", small(b""), ACCESS)
    touched = """
        SELECT SUM(seq_tup_read + COALESCE(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del)
        FROM pg_stat_xact_user_tables"""
    with storage.transaction(ANN):
        ((before,),) = opened[-1].execute(touched).fetchall()  # What has been done and is not reported yet.
        getattr(storage, name)(ANN, *CALLS[name])
        ((after,),) = opened[-1].execute(touched).fetchall()
    assert after - before < 20


def test_what_a_large_session_leaves_is_deleted_by_maintenance_a_little_at_a_time(opened, storage) -> None:
    keys = [(f"{n}", small(b"")) for n in range(5000)]
    storage.set_all(ANN, keys, ACCESS)
    storage.clear(ANN, ACCESS)
    storage.set_all(BOB, keys, ACCESS)
    storage.end(BOB, ACCESS)
    storage.set_all(STALE, keys, ACCESS)
    storage.set(STALE, "k", small(b"v"), LATER)
    assert items(storage, STALE, LATER) == [("k", b"v")]
    calls = 1
    while storage.maintain(ACCESS.now, ACCESS.now).has_more:
        calls += 1
    assert 15 <= calls <= 20
    with psycopg.connect(opened[-1].info.dsn) as connection:
        schema = psycopg.sql.Identifier(storage.schema)
        left = psycopg.sql.SQL("SELECT (SELECT COUNT(*) FROM {0}.values), (SELECT COUNT(*) FROM {0}.dropped)")
        assert connection.execute(left.format(schema)).fetchall() == [(1, 0)]


def test_70000_keys_are_written_at_once_or_not_at_all_when_one_is_too_much(opened, storage, tmp_path) -> None:
    limited = postgresql(tmp_path, timeout=30, max_keys=70_000, max_bytes=700_000)
    values = [(f"{n}", small(b"")) for n in range(70_000)]
    assert limited.keys(ANN, ACCESS) == []
    with traced(opened[-1:], tmp_path / "trace") as messages:
        limited.set_all(ANN, values, ACCESS)
    assert (messages.count("ReadyForQuery"), limited.stat(ANN, ACCESS).keys) == (1, 70_000)
    with pytest.raises(TooManyKeys, match="'new'"):
        limited.set_all(ANN, [("0", small(b"changed")), ("new", small(b""))], ACCESS)
    with pytest.raises(QuotaExceeded, match="'1'"):
        limited.set_all(ANN, [("0", small(b"changed")), ("1", small(bytes(400_000))), ("2", small(b""))], ACCESS)
    assert limited.get(ANN, "0", ACCESS) == small(b"")
    assert list(limited.problems()) == []
    limited.close()


def test_values_of_many_megabytes_are_written_together(storage) -> None:
    values = {f"{n}": large(b"%d" % n * 5_000_000) for n in range(6)} | {"small": small(b"v")}
    storage.set_all(ANN, values.items(), ACCESS)
    assert [key for key, _ in storage.items(ANN, ACCESS)] == list(values)
    assert all(read(storage.get(ANN, key, ACCESS)) == payload for key, (payload, _) in values.items())


# Whom it holds up


def test_a_transaction_holds_up_its_owner_alone(storage, tmp_path) -> None:
    impatient = postgresql(tmp_path, timeout=0.05)
    for each in [ANN, BOB, STALE]:
        impatient.set(each, "cut", small(b""), ACCESS, ACCESS.now + 1)
        impatient.set(each, "k", small(b"old"), ACCESS)
    with ThreadPoolExecutor(1) as thread, storage.transaction(ANN):
        storage.set(ANN, "k", small(b"new"), ACCESS)

        def others() -> None:
            impatient.set(BOB, "k", small(b"new"), LATER)
            impatient.set(BOB, "cut", small(b""), LATER, LATER.now)
            with impatient.transaction(BOB):
                assert impatient.get(ANN, "k", ACCESS) == small(b"old")
            assert impatient.maintain(LATER.now, 0) == Removed(owners=1, keys=1)
            assert impatient.maintain(LATER.now, 0, ExpiryLimit("s.ann", ACCESS.expires - 1)) == Removed()
            assert impatient.owners("", ACCESS) == ["s.ann", "s.bob"]
            with pytest.raises(StorageBusy, match="timeout="):
                impatient.maintain(LATER.now, 0, wait=True)

        thread.submit(others).result(timeout=30)
    assert impatient.maintain(LATER.now, 0) == Removed(owners=1)
    impatient.close()


def test_transactions_that_wait_for_each_other_end_with_an_error_for_one_of_them(tmp_path) -> None:
    storage = postgresql(tmp_path, timeout=0.3)
    both_began = threading.Barrier(2)

    def write(first: Owner, second: Owner) -> None:
        with storage.transaction(first):
            storage.set(first, first.name, small(b""), ACCESS)
            both_began.wait(timeout=30)
            storage.set(second, first.name, small(b""), ACCESS)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(write, ANN, BOB), pool.submit(write, BOB, ANN)]
        errors = [future.exception(timeout=30) for future in futures]
    assert any(isinstance(error, StorageBusy) for error in errors)
    kept = {each.name for each, error in zip([ANN, BOB], errors, strict=True) if not error}
    assert set(storage.keys(ANN, ACCESS)) == set(storage.keys(BOB, ACCESS)) == kept
    storage.close()


def count(storage: Storage, threads: int, times: int) -> None:
    def one_thread(_: int) -> None:
        for _ in range(times):
            with storage.transaction(ANN):
                stored = storage.get(ANN, "n", ACCESS)
                storage.set(ANN, "n", small(b"%d" % (1 + int(stored[0] if stored else 0))), ACCESS)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one_thread, range(threads)))


def test_1600_increments_of_many_threads_of_many_processes_are_1600(tmp_path) -> None:
    storage = postgresql(tmp_path, timeout=60)
    children = [Child("fork", count, storage, 4, 100) for _ in range(3)]
    count(storage, 4, 100)
    assert [child.outcome() for child in children] == [None] * 3
    assert storage.get(ANN, "n", ACCESS) == small(b"1600")
    storage.close()


# Tables


def start_and_write(folder: Path, worker: int, starts: int, together: Barrier) -> None:
    try:
        for start in range(starts):
            together.wait(timeout=30)
            storage = postgresql(folder / str(start), timeout=30)
            storage.set(ANN, str(worker), small(b""), ACCESS)
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
        assert sorted(storage.keys(ANN, ACCESS)) == ["0", "1", "2"]
        storage.close()


def test_tables_of_a_newer_version_are_refused_and_left_as_they_are(opened, storage, tmp_path) -> None:
    storage.set(ANN, "k", small(b"v"), ACCESS)
    opened[-1].execute(f"UPDATE {storage.schema}.format SET number = number + 1")
    with pytest.raises(UnknownFormat, match="version that created it"):
        postgresql(tmp_path)
    assert storage.get(ANN, "k", ACCESS) == small(b"v")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://host/db?colour=green", "query parameter"),
        ("postgresql+psycopg://host/db", "begin with postgresql://"),
        ("postgresql://host/db?schema=", "schema="),
        ("postgresql://host/db?schema=" + "x" * 64, "schema="),
        ("postgresql://host/db?max_connections=0", "max_connections="),
        ("postgresql://host/db?max_connections=many", "max_connections="),
    ],
)
def test_a_url_that_cannot_be_used_is_a_configuration_error(url, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_url(url)


@pytest.mark.parametrize("schema", ["public", 'with "quotes" & 100%', "Ünïcode"])
def test_the_url_names_the_schema(schema) -> None:
    storage = open_url(f"{shared_url()}&schema={quote(schema)}")
    storage.set(ANN, "k", small(b"v"), ACCESS)
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
    storage.set(ANN, "k", (b"payload", sent), ACCESS)
    payload, buffers = storage.get(ANN, "k", ACCESS)
    (whole,) = buffers.views
    assert (payload, buffers.name, whole.readonly, whole.nbytes) == (b"payload", sent.name, False, sent.nbytes)
    assert [whole[offset : offset + view.nbytes] == view for offset, view in sent.with_offsets()] == [True] * 3


def test_a_value_larger_than_postgresql_takes_is_refused_with_the_limit(storage) -> None:
    whole = memoryview(mmap.mmap(-1, 2**30))  # which takes no memory until it is touched
    with pytest.raises(ValueTooLarge, match=f"{2**30 + 1:,} bytes.* at most {MAX_VALUE_BYTES:,}"):
        storage.set(ANN, "k", (b"x", Buffers(token_hex(16), [whole])), ACCESS)
    assert storage.keys(ANN, ACCESS) == []


def test_owners_whose_names_are_longer_than_an_index_takes_do_not_meet(storage) -> None:
    letters = Random(0)
    long = "".join(chr(letters.randrange(0x10000, 0x110000)) for _ in range(511))  # which cannot be compressed
    owners = [user_owner(long + end) for end in ["🦆", "🦢", ""]]
    names = sorted(each.name for each in owners)
    for each in owners:
        storage.set(each, "k", small(each.name.encode()), ACCESS)
    assert [items(storage, each, ACCESS) for each in owners] == [[("k", each.name.encode())] for each in owners]
    assert storage.owners(owners[2].name, ACCESS) == names
    assert list(storage.all_owners()) == names


def test_more_owners_than_are_listed_at_once_are_all_given_once(storage) -> None:
    names = [f"u.{n}" for n in range(2500)]
    for name in names:
        storage.set(Owner(name), "k", small(b""), ACCESS)
    assert list(storage.all_owners()) == storage.owners("u.", ACCESS) == sorted(names)


def test_what_was_dumped_is_loaded_whole_over_what_was_there(storage, tmp_path) -> None:
    storage.set(ANN, "first", large(b"1"), ACCESS, ACCESS.now + 5)
    storage.set(ANN, "after", small(b"2"), ACCESS)
    storage.set(BOB, "old", large(b"old"), ACCESS)
    storage.end(owner("s.gone"), ACCESS)
    for source, target in [("s.ann", "s.bob"), ("s.gone", "s.cid"), ("s.gone", "s.ann")]:
        dump = storage.dump(source)
        assert dump is not None
        storage.load(target, dump)
        copy = storage.dump(target)
        assert copy is not None
        assert copy._replace(values=[]) == dump._replace(values=[])
        assert [(k, read(v), e) for k, v, e in copy.values] == [(k, read(v), e) for k, v, e in dump.values]
    copied = Owner("s.bob", ANN.session)
    assert items(storage, copied, ACCESS) == [("first", b"1"), ("after", b"2")]
    with pytest.raises(SessionEnded):
        storage.get(ANN, "first", ACCESS)
    assert storage.dump("s.unknown") is None
    limited = postgresql(tmp_path, max_keys=1)
    limited.load("s.bob", storage.dump("s.bob"))
    with pytest.raises(TooManyKeys, match="max_keys="):
        limited.set(copied, "third", small(b""), ACCESS)
    limited.close()
    assert sorted(storage.all_owners()) == ["s.ann", "s.bob", "s.cid", "s.gone"]


def test_counts_stay_right_whatever_is_written(storage) -> None:
    chance = Random(0)
    keys = [f"{n}" for n in range(5)]
    access = ACCESS
    for _ in range(400):
        key, value = chance.choice(keys), chance.choice([small, large])(bytes(chance.randrange(2000)))
        call = chance.randrange(8)
        if call < 4:
            storage.set(ANN, key, value, access, chance.choice([None, "keep", access.now + 5]))
        elif call == 4:
            storage.set_all(ANN, [(each, value) for each in keys], access)
        elif call == 5:
            storage.delete(ANN, key, access)
        elif call == 6:
            storage.expire(ANN, key, access.now + 1, access)
        elif chance.randrange(2):
            storage.clear(ANN, access)
        else:
            storage.maintain(access.now, 0)
        access = access._replace(now=access.now + chance.choice([0, 1, TTL]), expires=access.expires + TTL)
        counted = sum(len(key) + len(p) + (b.nbytes if b else 0) for key, (p, b) in storage.items(ANN, access))
        assert storage.stat(ANN, access)[1:3] == (counted, len(storage.keys(ANN, access)))
    assert list(storage.problems()) == []


# Connections


def test_a_process_opens_no_more_connections_than_the_url_says(opened, tmp_path) -> None:
    storage = open_url(f"{shared_url()}&schema=few&max_connections=2", timeout=30)
    opened.clear()
    together = threading.Barrier(2)

    def work(n: int) -> None:
        for _ in range(20):
            with storage.transaction(owner(f"s.{n}")):
                storage.set(owner(f"s.{n}"), "k", small(b""), ACCESS)

    def hold(n: int) -> None:
        with storage.transaction(owner(f"s.{n}")):
            together.wait(30)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(2)))
        list(pool.map(work, range(8)))
    assert len(opened) == 2
    storage.close()


def test_the_error_of_a_thread_that_gets_no_connection_in_time_names_the_setting() -> None:
    storage = open_url(f"{shared_url()}&schema=few&max_connections=1", timeout=0.05)
    with ThreadPoolExecutor(1) as thread, storage.transaction(ANN):
        error = thread.submit(storage.get, BOB, "k", ACCESS).exception(timeout=30)
    assert isinstance(error, StorageBusy)
    assert "max_connections=" in str(error)
    storage.close()


def test_no_connection_is_open_when_a_storage_has_been_opened(opened, storage) -> None:
    """A server that forks its workers now, in whatever way, shares none with them."""
    assert [connection.closed for connection in opened] == [True]


def test_a_process_that_was_forked_without_pythons_hooks_leaves_its_parents_connections_alone(storage) -> None:
    """uWSGI forks in C, where os.register_at_fork does nothing."""
    storage.set(ANN, "k", small(b"v"), ACCESS)
    fork = ctypes.PyDLL(None).fork
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = fork()
    if pid == 0:
        try:
            storage.set(ANN, "of the child", small(b""), ACCESS)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert storage.keys(ANN, ACCESS) == ["k", "of the child"]


def test_a_server_with_stricter_transactions_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="ALTER ROLE"):
        open_url(f"{shared_url()}&options=-c%20default_transaction_isolation%3Dserializable")
