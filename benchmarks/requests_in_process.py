"""Requests, in process

One thread calls the app as a WSGI server does, from the environ to the last byte of the response. The views are the
same everywhere: one that does not touch the visitor's values, one that reads a key, one that reads and writes it.
All apps have a SECRET_KEY and get a Cookie header of the same length, bare Flask too. "By hand" is a store that knows
nothing of requests, by an unsigned cookie: no signature, no expiry, no quota. Raw SQLite by hand is the least that such
a request can cost: one connection in WAL mode, a SELECT, an upsert, pickle. "In flask.session" is this package with
`flask_session=True`: the views use `flask.session`, which is in the visitor's store.
"""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

from flask import Flask
from werkzeug.test import EnvironBuilder

from .apps import APPS, BARE, FLASK_SESSION_ON_REDIS, OURS, OURS_ON_REDIS, RAW, create
from .bench import Bench
from .measure import SecondsPerCall, ratio
from .results import Findings, Table

KINDS = {"untouched": "does not touch", "read": "reads", "write": "reads and writes"}


def prepare(app: Flask, cookie: str, path: str) -> Callable[[], None]:
    """A function that makes the same request each time."""
    prepared = EnvironBuilder(path, headers={"Cookie": cookie}).get_environ() | {"wsgi.input": BytesIO()}

    def call() -> None:
        response: list[Any] = []
        body = app.wsgi_app(prepared.copy(), lambda *given: response.append(given))
        for _ in body:
            pass
        body.close()  # type: ignore[attr-defined]
        if response[0][0] != "200 OK":
            raise RuntimeError(f"{path} was answered with {response[0][0]}")

    return call


def measure(bench: Bench) -> Findings:
    block, subjects = bench.choose(0.01, 0.05), {}
    apps = bench.opened({name: partial(create, name) for name in APPS})
    for name, app in apps.items():
        visitor = app.test_client()
        visitor.get("/start")
        visitor.get("/begin")
        cookie = visitor.get("/cookie").text
        for kind in KINDS:
            subjects[name, kind] = SecondsPerCall(prepare(app, cookie, f"/{kind}"), block)
    outcomes = bench.interleaved(subjects, bench.choose(7, 41))

    return [Table.of("A request", "µs", KINDS, outcomes)], {
        "untouched": ratio(outcomes, (OURS, "untouched"), (BARE, "untouched")),
        "read": ratio(outcomes, (OURS, "read"), (RAW, "read")),
        "write": ratio(outcomes, (OURS, "write"), (RAW, "write")),
        "write_redis": ratio(outcomes, (OURS_ON_REDIS, "write"), (FLASK_SESSION_ON_REDIS, "write")),
    }
