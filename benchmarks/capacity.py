"""What each backend takes for a session, what it bears a second, and how long a move takes.

`python -m benchmarks.capacity` gives the numbers of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flask import Flask

from flask_dash_store import UserStoreMiddleware
from flask_dash_store.transfer import copy

from .peers import SECRET_KEY, session_id
from .servers import postgresql_server, redis_server
from .small_values import VALUE

PROCESSES = 4
SESSIONS = 4000
MOVED = 10_000
SECONDS = 2.0
FRAME_BYTES = 50 * 10**6


@dataclass
class Backend:
    """``size`` gives the bytes that it takes now."""

    name: str
    url: str
    size: Callable[[], int]


def install(url: str) -> UserStoreMiddleware:
    app = Flask("capacity")
    app.secret_key = SECRET_KEY
    return UserStoreMiddleware(app, url=url)


def small(store: Any) -> None:
    store["key"] = VALUE


def eight_values(store: Any) -> None:
    store.update({f"key-{number}": bytes(1000) for number in range(8)})


def ended(store: Any) -> None:
    store.destroy()


KINDS = {"a small value": small, "8 values of 1,000 bytes": eight_values, "ended": ended}


def bytes_per_session(backend: Backend, kind: str, sessions: int) -> float:
    stores = install(backend.url)
    before = backend.size()
    for number in range(sessions):
        KINDS[kind](stores.open(session_id(f"{kind}-{number}")))
    return (backend.size() - before) / sessions


def operations(url: str, operation: str, number: int, sessions: int, seconds: float) -> float:
    """Operations per second of one process, on sessions of its own."""
    stores = install(url)
    mine: list[Any] = [stores.open(session_id(f"a small value-{each}")) for each in range(number, sessions, PROCESSES)]
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        store = mine[done % len(mine)]
        if operation == "read":
            store["key"]
        else:
            store["key"] = VALUE
        done += 1
    return done / (time.perf_counter() - began)


def per_second(backend: Backend, operation: str, sessions: int, seconds: float) -> float:
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        work = [(backend.url, operation, number, sessions, seconds) for number in range(PROCESSES)]
        return sum(pool.starmap(operations, work))


def read_frame(backend: Backend) -> float:
    """Seconds to read a DataFrame of 50 MB, and sum a column."""
    store = install(backend.url).for_user("frame")
    store["frame"] = pd.DataFrame(np.random.default_rng(1).random((FRAME_BYTES // 80, 10)))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        store["frame"][0].sum()
        times.append(time.perf_counter() - began)
    del store["frame"]
    return statistics.median(times)


def move(source: Backend, target: Backend, sessions: int) -> float:
    """Seconds to copy sessions, of a small value each, from one backend to another."""
    stores = install(source.url)
    for number in range(sessions):
        small(stores.open(session_id(f"moved-{number}")))
    (installed,) = stores._installed
    begin, end = installed.open_storage(source.url), installed.open_storage(target.url)
    began = time.perf_counter()
    owners = [stores.open(session_id(f"moved-{number}"))._owner for number in range(sessions)]
    if sum(copy(owners, begin, end, lambda owner, error: None)) != sessions:
        raise RuntimeError("not all sessions were copied")
    return time.perf_counter() - began


@contextmanager
def backends(folder: Path) -> Iterator[list[Backend]]:
    with ExitStack() as stack:
        found = [Backend("SQLite", f"sqlite:///{folder}/user_store.sqlite", lambda: _file_bytes(folder))]
        redis = stack.enter_context(redis_server(folder))
        if redis is not None:
            found.append(Backend("Redis", f"unix://{redis}", lambda: _redis_bytes(redis)))
        postgresql = stack.enter_context(postgresql_server(folder))
        if postgresql is not None:
            found.append(Backend("PostgreSQL", postgresql, lambda: _postgresql_bytes(postgresql)))
        yield found


def _file_bytes(folder: Path) -> int:
    install(f"sqlite:///{folder}/user_store.sqlite").purge()  # What is in the WAL goes into the file.
    return (folder / "user_store.sqlite").stat().st_size


def _redis_bytes(socket: str) -> int:
    import redis

    return int(redis.Redis(unix_socket_path=socket).info("memory")["used_memory"])


def _postgresql_bytes(url: str) -> int:
    import psycopg

    sizes = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
    with psycopg.connect(url) as connection:
        row = connection.execute(sizes + "WHERE nspname = 'flask_dash_store' AND relkind = 'r'").fetchone()
        return int(row[0] or 0) if row else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--moved", type=int, default=MOVED)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capacity-") as name, backends(Path(name)) as compared:
        head = [*(f"bytes of a session: {kind}" for kind in KINDS), "reads a second", "writes a second"]
        print(f"| {PROCESSES} processes | {' | '.join(head)} | read a DataFrame of 50 MB |\n|{' --- |' * 7}")
        for backend in compared:
            install(backend.url)
            sizes = [f"{bytes_per_session(backend, kind, options.sessions):,.0f}" for kind in KINDS]
            rates = [
                f"{per_second(backend, operation, options.sessions, options.seconds):,.0f}"
                for operation in ("read", "write")
            ]
            frame = f"{read_frame(backend) * 1e3:.1f} ms"
            print(f"| {' | '.join([backend.name, *sizes, *rates, frame])} |", flush=True)
        for target in compared[1:]:
            seconds = move(compared[0], target, options.moved)
            print(
                f"\nTo copy {options.moved:,} sessions from SQLite to {target.name} takes {seconds:.0f} s.", flush=True
            )


if __name__ == "__main__":
    main()
