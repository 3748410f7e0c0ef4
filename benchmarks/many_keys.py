"""Many keys

What needs one end of a store, or its counts, with ten keys in the store and with 100,000.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask

from flask_dash_store import UserStoreMiddleware

from .bench import Bench
from .measure import SecondsPerCall, ratio
from .peers import SECRET_KEY, sqlite_url
from .results import Findings, Table
from .servers import redis_socket

FEW, MANY = 10, 100_000

BACKENDS = {"SQLite": sqlite_url, "Redis": lambda _: f"unix://{redis_socket()}?prefix=many_keys:"}
OPERATIONS: dict[str, Callable[[Any], object]] = {
    "bool": bool,
    "first": lambda store: next(iter(store)),
    "popitem": lambda store: store.__setitem__(*store.popitem()),
}
TEXTS = {"bool": "bool(store)", "first": "next(iter(store))", "popitem": "popitem, and set again"}


def measure(bench: Bench) -> Findings:
    block = bench.choose(0.005, 0.05)
    urls = bench.opened(BACKENDS)
    subjects = {}
    for name, url in bench.progress("filling", urls.items()):
        stores = {keys: _filled(url, keys) for keys in (FEW, MANY)}
        for operation, call in OPERATIONS.items():
            for keys, store in stores.items():
                subjects[name, (operation, keys)] = SecondsPerCall(partial(call, store), block)
    outcomes = bench.interleaved(subjects, bench.choose(5, 21))

    columns = {(operation, keys): f"{text}: {keys:,}" for operation, text in TEXTS.items() for keys in (FEW, MANY)}
    bounded = {
        f"{operation}_{name}": ratio(outcomes, (name, (operation, MANY)), (name, (operation, FEW)))
        for name in BACKENDS
        for operation in OPERATIONS
    }
    return [Table.of("An end, or a count, by number of keys", "µs", columns, outcomes)], bounded


def _filled(url: str, keys: int) -> Any:
    app = Flask("benchmark")
    app.secret_key = SECRET_KEY
    store = UserStoreMiddleware(app, url=url, max_keys=MANY).for_user(f"user with {keys}")
    store.update({f"key-{number}": number for number in range(keys)})
    return store
