"""What a session takes on each backend, and how many operations a second it bears: `python -m benchmarks.capacity`."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flask import Flask

from flask_dash_store import UserStoreMiddleware

from .peers import SECRET_KEY, session_id
from .servers import postgresql_server, redis_server
from .small_values import VALUE

PROCESSES = 4
SESSIONS = 20_000
SECONDS = 3.0
USED_MEMORY = "used_memory"


def store_of(url: str) -> UserStoreMiddleware:
    app = Flask("capacity")
    app.secret_key = SECRET_KEY
    return UserStoreMiddleware(app, url=url)


def fill(url: str, sessions: int) -> None:
    stores = store_of(url)
    for number in range(sessions):
        stores.open(session_id(f"user-{number}"))["key"] = VALUE
    stores.purge()


def operations(url: str, operation: str, number: int, sessions: int, seconds: float) -> float:
    """Operations per second of one process, on sessions of its own."""
    stores = store_of(url)
    mine: list[Any] = [stores.open(session_id(f"user-{each}")) for each in range(number, sessions, PROCESSES)]
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        store = mine[done % len(mine)]
        if operation == "read":
            store["key"]
        else:
            store["key"] = VALUE
        done += 1
    return done / (time.perf_counter() - began)


def per_second(url: str, operation: str, sessions: int, seconds: float) -> float:
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        work = [(url, operation, number, sessions, seconds) for number in range(PROCESSES)]
        return sum(pool.starmap(operations, work))


def file_bytes(folder: Path) -> int:
    return (folder / "user_store.sqlite").stat().st_size


def redis_bytes(socket: str) -> int:
    import redis

    return int(redis.Redis(unix_socket_path=socket).info("memory")[USED_MEMORY])


def postgresql_bytes(url: str) -> int:
    import psycopg

    sizes = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
    with psycopg.connect(url) as connection:
        row = connection.execute(sizes + "WHERE nspname = 'flask_dash_store' AND relkind = 'r'").fetchone()
        return int(row[0] or 0) if row else 0


def measure(name: str, url: str, size: Callable[[], int], sessions: int, seconds: float) -> str:
    store_of(url)
    before = size()
    fill(url, sessions)
    taken = (size() - before) / sessions
    reads, writes = (per_second(url, operation, sessions, seconds) for operation in ("read", "write"))
    return f"| {name} | {taken:,.0f} | {reads:,.0f} | {writes:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capacity-")))
        redis = stack.enter_context(redis_server(folder))
        postgresql = stack.enter_context(postgresql_server(folder))
        print(
            f"| {PROCESSES} processes | bytes a session | reads a second | writes a second |\n| --- | --- | --- | --- |"
        )
        chosen: list[tuple[str, str, Callable[[], int]]] = [
            ("SQLite", f"sqlite:///{folder}/user_store.sqlite", lambda: file_bytes(folder))
        ]
        if redis is not None:
            chosen.append(("Redis", f"unix://{redis}", lambda: redis_bytes(redis)))
        if postgresql is not None:
            chosen.append(("PostgreSQL", postgresql, lambda: postgresql_bytes(postgresql)))
        for name, url, size in chosen:
            print(measure(name, url, size, options.sessions, options.seconds), flush=True)


if __name__ == "__main__":
    main()
