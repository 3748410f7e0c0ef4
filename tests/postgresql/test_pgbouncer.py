"""Behind a PgBouncer that pools transactions, each one may be on another connection to the server.

Promises: docs/scaling.md, "PostgreSQL".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from backends import TTL, items, large, open_url, owner, small
from clocks import HandClock
from pgbouncer import pgbouncer
from servers_postgresql import running

from flask_dash_store.errors import StorageBusy
from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.storage import Storage

ACCESS = ExpiryPolicy(TTL, HandClock()).access()
ANN, BOB = owner("s.ann"), owner("s.bob")
CONNECTIONS = 3


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as server, pgbouncer(server, CONNECTIONS) as url:
        yield url


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    storage = open_url(url, timeout=30)
    yield storage
    storage.close()


def settings(url: str) -> set[tuple[tuple[str, str], ...]]:
    """What is set on the connections of the pooler, for whichever application comes next."""
    together = threading.Barrier(CONNECTIONS)

    def read(_: int) -> tuple[tuple[str, str], ...]:
        with psycopg.connect(url) as connection:
            together.wait(30)
            names = "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'application_name'"
            return tuple(connection.execute(names).fetchall())

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return set(pool.map(read, range(CONNECTIONS)))


def test_many_threads_lose_nothing_and_leave_nothing_set_on_the_poolers_connections(url, storage) -> None:
    before = settings(url)

    def count(n: int) -> None:
        for _ in range(25):
            with storage.transaction(ANN):
                stored = storage.get(ANN, "n", ACCESS)
                storage.set(ANN, "n", small(b"%d" % (1 + int(stored[0] if stored else 0))), ACCESS)
            storage.set_all(owner(f"s.{n}"), [("a", small(b"1")), ("b", large(b"2"))], ACCESS)
            assert items(storage, owner(f"s.{n}"), ACCESS) == [("a", b"1"), ("b", b"2")]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert storage.get(ANN, "n", ACCESS) == small(b"200")
    assert settings(url) == before


def test_a_lock_holds_and_times_out_as_without_a_pooler(url, storage) -> None:
    hasty = open_url(url, timeout=0.05)
    with storage.transaction(ANN):
        with pytest.raises(StorageBusy):
            hasty.set(ANN, "k", small(b""), ACCESS)
        hasty.set(BOB, "k", small(b""), ACCESS)
    hasty.set(ANN, "k", small(b""), ACCESS)
    hasty.close()


def test_a_transaction_that_fails_leaves_nothing_on_a_connection(storage) -> None:
    storage.set(BOB, "k", small(b"old"), ACCESS)
    for _ in range(2 * CONNECTIONS):
        with pytest.raises(ZeroDivisionError), storage.transaction(BOB):
            storage.set(BOB, "k", small(b"new"), ACCESS)
            raise ZeroDivisionError
    assert storage.get(BOB, "k", ACCESS) == small(b"old")
