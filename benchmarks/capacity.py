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
OPERATIONS = {"reads": "reads", "writes": "writes"}
CONTENTS: dict[str, Callable[[Any], object]] = {
    "a small value": lambda store: store.update({"key": VALUE}),
    "8 values of 1,000 bytes": lambda store: store.update({f"key-{number}": bytes(1000) for number in range(8)}),
    "ended": lambda store: store.destroy(),
}


def measure(bench: Bench) -> Findings:
    with ExitStack() as stack:
        servers = {
            "SQLite": sqlite_url,
            "Redis": lambda _: f"unix://{redis_socket()}",
            "PostgreSQL": lambda folder: stack.enter_context(postgresql_server(folder)),
        }
        urls = bench.opened(servers)
        return [measured(bench, urls) for measured in (_sizes, _rates, _frames, _moves)], {}


def fill(stores: UserStoreMiddleware, content: str, count: int) -> None:
    for number in range(count):
        CONTENTS[content](stores.open(session_id(f"{content}-{number}")))


def _sizes(bench: Bench, urls: dict[str, str]) -> Table:
    table, count = Table("A session", "bytes", list(CONTENTS)), bench.choose(400, 4000)
    for name, content in bench.progress("filling", [(name, content) for name in urls for content in CONTENTS]):
        before = _used_bytes(urls[name])
        fill(install(urls[name]), content, count)
        table.add(name, [(_used_bytes(urls[name]) - before) / count])
    return table


def _used_bytes(url: str) -> float:
    """What the whole storage takes now."""
    if url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(url) as connection:
            return float(*connection.execute("SELECT pg_database_size(current_database())").fetchone() or [0])
    if url.startswith("unix"):
        import redis

        return float(redis.Redis.from_url(url).info("memory")["used_memory"])
    install(url).purge()  # It makes a checkpoint, so that what is in the WAL goes into the file.
    return Path(url.removeprefix("sqlite:///")).stat().st_size


class Client:
    """Reads and writes sessions of a small value, in a process of its own."""

    def rate(self, url: str, operation: str, seconds: float) -> float:
        stores = install(url)
        sessions = cycle([stores.open(session_id(f"a small value-{number}")) for number in range(400)])
        calls = {"reads": lambda: next(sessions)["key"], "writes": lambda: next(sessions).__setitem__("key", VALUE)}
        return per_second(calls[operation], seconds)


def _rates(bench: Bench, urls: dict[str, str]) -> Table:
    with Crew(PROCESSES, Client) as crew:

        def rate(url: str, operation: str) -> float:
            return float(sum(crew.call("rate", url, operation, bench.choose(0.2, 1.0))))

        subjects = {(name, each): partial(rate, urls[name], each) for name in urls for each in OPERATIONS}
        outcomes = bench.interleaved(subjects, bench.choose(1, 5))
    return Table.of(f"{PROCESSES} processes", "operations per second", OPERATIONS, outcomes)


def _frames(bench: Bench, urls: dict[str, str]) -> Table:
    subjects = {}
    for name, url in urls.items():
        store = install(url).for_user("frame")
        store["frame"] = frame("50 MB of numbers")
        subjects[name, "sum"] = SecondsPerCall(lambda store=store: store["frame"]["c0"].sum())
    outcomes = bench.interleaved(subjects, bench.choose(2, 7))
    return Table.of("A DataFrame of 50 MB", "ms", {"sum": "get and sum a column"}, outcomes)


def _moves(bench: Bench, urls: dict[str, str]) -> Table:
    table, count = Table("Copied from SQLite", "sessions per second", ["rate"]), bench.choose(500, 10_000)
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
