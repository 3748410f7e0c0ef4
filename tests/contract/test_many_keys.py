"""What costs the same with ten thousand keys as with a few, counted in what each backend does for it.

SQLite counts the steps of its virtual machine, Redis its commands and the bytes that it sends and gets, PostgreSQL the
rows that it fetches, and Python the bytes that it allocates.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import pytest
from flask import Flask
from redis import Redis
from urls import URLS

from flask_dash_store import UserStore, UserStoreMiddleware
from flask_dash_store.store.views import FEW

MANY = 10_000

Operation = Callable[[UserStore], object]
Count = Callable[[UserStore, Operation], dict[str, int]]

OPERATIONS: dict[str, Operation] = {
    "bool": bool,
    "len": len,
    "nbytes": lambda store: store.nbytes,
    "expires_at": lambda store: store.expires_at,
    "first key": lambda store: next(iter(store)),
    "last key": lambda store: next(reversed(store)),
    "popitem": lambda store: store.popitem(),
}


def opened(url: str) -> UserStoreMiddleware:
    app = Flask("many keys")
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url=url)


def fill(stores: UserStoreMiddleware, user: str, keys: int) -> UserStore:
    store = stores.for_user(user)
    store.update({f"key {n:05}": n for n in range(keys)})
    return store


@pytest.fixture(params=["memory", *URLS])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def count(backend: str, connections: list[apsw.Connection]) -> Count:
    """Counts what a backend does for an operation on a store."""

    def in_memory(store: UserStore, operation: Operation) -> dict[str, int]:
        tracemalloc.start()
        try:
            operation(store)
            return {"bytes": tracemalloc.get_traced_memory()[1]}
        finally:
            tracemalloc.stop()

    def in_sqlite(store: UserStore, operation: Operation) -> dict[str, int]:
        steps = []
        trace(apsw.SQLITE_TRACE_PROFILE, lambda event: steps.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]))
        operation(store)
        trace(0, None)
        return {"steps": sum(steps)}

    def trace(mask: int, note: Callable[[dict[str, Any]], None] | None) -> None:
        for connection in connections:
            with suppress(apsw.ConnectionClosedError):
                connection.trace_v2(mask, note)

    def in_redis(store: UserStore, operation: Operation) -> dict[str, int]:
        with Redis(unix_socket_path=urlsplit(URLS["redis"](Path())).path) as client:
            client.config_resetstat()
            operation(store)
            stats, calls = client.info("stats"), client.info("commandstats")
        nbytes = stats["total_net_input_bytes"] + stats["total_net_output_bytes"]
        return {"commands": sum(each["calls"] for each in calls.values()), "bytes": nbytes}

    def in_postgresql(store: UserStore, operation: Operation) -> dict[str, int]:
        query = "SELECT SUM(seq_tup_read + idx_tup_fetch)::int FROM pg_stat_xact_user_tables"
        database = vars(store)["_storage"]._database  # noqa: SLF001
        with store.transaction():
            ((before,),) = database.select(query)
            operation(store)
            ((after,),) = database.select(query)
        return {"rows": after - (before or 0)}

    return {"memory": in_memory, "sqlite": in_sqlite, "redis": in_redis, "postgresql": in_postgresql}[backend]


@pytest.fixture
def stores(backend: str, tmp_path: Path) -> UserStoreMiddleware:
    return opened("memory://" if backend == "memory" else URLS[backend](tmp_path))


def test_the_ends_and_the_counts_cost_the_same_with_10000_keys_as_with_10(
    stores: UserStoreMiddleware, count: Count, backend: str
) -> None:
    few, many = (fill(stores, f"user {keys}", keys) for keys in (FEW, MANY))
    for name, operation in OPERATIONS.items():
        if (backend, name) == ("memory", "popitem"):
            continue  # A write in memory copies the owner's table of keys.
        for store in (few, many):
            operation(store)  # Connections are opened, and statements prepared.
        done, more = count(few, operation), count(many, operation)
        assert all(more[unit] <= 1.2 * done[unit] for unit in done), (name, done, more)
