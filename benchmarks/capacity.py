"""Capacity

Each backend with many sessions: the bytes that one takes, the operations per second of 4 processes that do nothing else
(the servers run on the same cores), the time to read a DataFrame of 50 MB and sum a column, and how many sessions of a
small value `flask user-store copy` moves from SQLite per second. These are the numbers of scaling.md.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from flask import Flask

from flask_dash_store import UserStoreMiddleware

from .bench import Bench
from .crew import Crew
from .dataframes import frame
from .measure import SecondsPerCall, per_second
from .peers import SECRET_KEY, install, session_id, sqlite_url
from .results import Findings, Table
from .servers import postgresql_server, redis_socket
from .small_values import VALUE

PROCESSES = 4
CONTENTS: dict[str, Callable[[Any], object]] = {
    "a small value": lambda store: store.update({"key": VALUE}),
    "8 values of 1,000 bytes": lambda store: store.update({f"key-{number}": bytes(1000) for number in range(8)}),
    "ended": lambda store: store.destroy(),
}


def fill(stores: UserStoreMiddleware, content: str, count: int) -> None:
    for number in range(count):
        CONTENTS[content](stores.open(session_id(f"{content}-{number}")))


class Client:
    """Reads and writes sessions of a small value, in a process of its own."""

    def __init__(self, urls: dict[str, str], sessions: int) -> None:
        self._urls = urls
        self._ids = [session_id(f"a small value-{number}") for number in range(sessions)]

    def rate(self, backend: str, operation: str, seconds: float) -> float:
        stores = install(self._urls[backend])
        picked = cycle([stores.open(each) for each in self._ids])
        if operation == "reads":
            return per_second(lambda: next(picked)["key"], seconds)
        return per_second(lambda: next(picked).__setitem__("key", VALUE), seconds)


def used_bytes(url: str) -> float:
    """What the whole storage takes now."""
    if url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(url) as connection:
            [size] = connection.execute("SELECT pg_database_size(current_database())").fetchone() or [0]
            return float(size)
    if url.startswith("unix"):
        import redis

        return float(redis.Redis.from_url(url).info("memory")["used_memory"])
    install(url).purge()  # It makes a checkpoint, so that what is in the WAL goes into the file.
    return Path(url.removeprefix("sqlite:///")).stat().st_size


def measure(bench: Bench) -> Findings:
    sessions, moved = bench.choose((400, 500), (4000, 10_000))
    with ExitStack() as stack:
        urls = bench.opened(
            {
                "SQLite": sqlite_url,
                "Redis": lambda _: f"unix://{redis_socket()}",
                "PostgreSQL": lambda folder: stack.enter_context(postgresql_server(folder)),
            }
        )
        return [
            _sizes(bench, urls, sessions),
            _rates(bench, urls, sessions),
            _frames(bench, urls),
            _moves(bench, urls, moved),
        ], {}


def _sizes(bench: Bench, urls: dict[str, str], sessions: int) -> Table:
    table = Table("A session", "bytes", list(CONTENTS))
    for name, content in bench.progress("filling", [(name, content) for name in urls for content in CONTENTS]):
        stores, before = install(urls[name]), used_bytes(urls[name])
        fill(stores, content, sessions)
        table.add(name, [(used_bytes(urls[name]) - before) / sessions])
    return table


def _rates(bench: Bench, urls: dict[str, str], sessions: int) -> Table:
    table = Table(f"{PROCESSES} processes", "operations per second", ["reads", "writes"])
    seconds = bench.choose(0.2, 1.0)
    with Crew(PROCESSES, Client, urls, sessions) as crew:

        def rate(name: str, operation: str) -> float:
            return float(sum(crew.call("rate", name, operation, seconds)))

        subjects = {(name, each): partial(rate, name, each) for name in urls for each in table.columns}
        outcomes = bench.interleaved(subjects, bench.choose(1, 5))
    for name in urls:
        table.add(name, *(outcomes[name, each] for each in table.columns))
    return table


def _frames(bench: Bench, urls: dict[str, str]) -> Table:
    table = Table("A DataFrame of 50 MB", "ms", ["get and sum a column"])
    stores = {name: install(url).for_user("frame") for name, url in urls.items()}
    for store in stores.values():
        store["frame"] = frame("50 MB of numbers")

    def read(store: Any) -> float:
        return float(store["frame"]["c0"].sum())

    subjects = {name: SecondsPerCall(partial(read, store)) for name, store in stores.items()}
    for name, outcome in bench.interleaved(subjects, bench.choose(2, 7)).items():
        table.add(name, outcome, unit=1e-3)
        del stores[name]["frame"]
    return table


def _moves(bench: Bench, urls: dict[str, str], count: int) -> Table:
    table = Table("Copied from SQLite", "sessions per second", ["rate"])
    app, source = Flask("moving"), sqlite_url(bench.inside("moving"))
    app.secret_key = SECRET_KEY
    stores = UserStoreMiddleware(app, url=source)
    for number in range(count):
        stores.open(session_id(f"moved-{number}"))["key"] = VALUE
    for name in bench.progress("moving", [name for name in urls if name != "SQLite"]):
        began = time.perf_counter()
        done = app.test_cli_runner().invoke(args=["user-store", "copy", source, urls[name]])
        if done.exit_code:
            raise RuntimeError(f"the sessions were not copied: {done.output}")
        table.add(name, [count / (time.perf_counter() - began)])
    return table
