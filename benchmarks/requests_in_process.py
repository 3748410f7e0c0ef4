"""What a request costs in process: the app is called as a WSGI server calls it, with no network between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from flask import Flask
from werkzeug.http import parse_cookie
from werkzeug.test import EnvironBuilder

from .apps import (
    APPS,
    SESSIONS,
    App,
    BareFlask,
    CookieSession,
    FlaskDashStoreApp,
    FlaskDashStoreOnRedis,
    FlaskSessionRedis,
)
from .bench import Bench
from .measure import Outcome, SecondsPerCall, interleaved, ratios, spread
from .results import Result, Table

TITLE = "Requests, in process"
ABOUT = """\
One thread calls the app as a WSGI server does, from the environ to the last byte of the response. The views are the
same everywhere: one that does not touch the visitor's values, one that reads a key, one that reads and writes it.
The apps have a SECRET_KEY and get a Cookie header of the same length, bare Flask too; without a SECRET_KEY bare Flask
does not look for its session cookie, and is a little faster. "By hand" is a store that knows nothing of requests, by
an unsigned cookie: no signature, no expiry."""

KINDS = {"untouched": "does not touch", "read": "reads", "write": "reads and writes"}


class Visitor:
    """A browser without a network: it keeps the cookies that it is given."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._cookies: dict[str, str] = {}

    def visit(self, path: str) -> None:
        """Make one request, and keep its cookies."""
        for name, value in self._call(self._environ(path)):
            if name == "Set-Cookie":
                for cookie, text in parse_cookie(value.partition(";")[0]).items():
                    self._cookies[cookie] = text

    def prepare(self, path: str) -> Callable[[], object]:
        """A function that makes the same request each time."""
        environ = self._environ(path)
        return lambda: self._call(environ.copy())

    def _environ(self, path: str) -> dict[str, Any]:
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        environ = EnvironBuilder(path, headers={"Cookie": cookies}).get_environ()
        return environ | {"wsgi.input": BytesIO()}

    def _call(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        response: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
            response[:] = status, headers

        body = self._app.wsgi_app(environ, start_response)
        try:
            for _ in body:
                pass
        finally:
            if hasattr(body, "close"):
                body.close()
        status, headers = response
        if not status.startswith("200"):
            raise RuntimeError(f"{environ['PATH_INFO']} was answered with {status}")
        return headers


def measure(bench: Bench) -> Result:
    result = Result("requests_in_process", TITLE, ABOUT)
    apps = bench.runnable(APPS)
    rounds, block = bench.choose(7, 41), bench.choose(0.01, 0.05)
    bench.expect(len(apps) * len(KINDS) * rounds)
    place = bench.place.inside("requests")
    subjects = {}
    for number, app in enumerate(apps):
        visitor = Visitor(app(place.inside(str(number))).flask)
        visitor.visit("/start")
        for kind in KINDS:
            subjects[app.name, kind] = SecondsPerCall(visitor.prepare(f"/{kind}"), block)
    outcomes = interleaved(subjects, rounds, bench.step)
    result.tables = [_table(apps, outcomes)]
    result.ratios = compare(bench, outcomes)
    return result


def _table(apps: list[type[App]], outcomes: Mapping[tuple[str, str], Outcome]) -> Table:
    table = Table("A request", "µs", list(KINDS.values()))
    for app in apps:
        for kind in KINDS:
            table.add(app.name, outcomes[app.name, kind], 1e6)
    return table


def compare(bench: Bench, outcomes: Mapping[tuple[str, str], Outcome]) -> dict[str, Outcome]:
    mine = {kind: outcomes[FlaskDashStoreApp.name, kind] for kind in KINDS}
    found = {kind: ratios(mine[kind], outcomes[BareFlask.name, kind]) for kind in KINDS}
    found["write_cookie"] = ratios(mine["write"], outcomes[CookieSession.name, "write"])
    found["write_flask_session"] = ratios(mine["write"], _fastest_flask_session(bench, outcomes))
    found["write_redis"] = _compare_on_redis(bench, outcomes)
    return found


def _compare_on_redis(bench: Bench, outcomes: Mapping[tuple[str, str], Outcome]) -> Outcome:
    compared = (FlaskDashStoreOnRedis.name, FlaskSessionRedis.name)
    mine, theirs = (outcomes.get((name, "write"), bench.absence(name)) for name in compared)
    return ratios(mine, theirs)


def _fastest_flask_session(bench: Bench, outcomes: Mapping[tuple[str, str], Outcome]) -> Outcome:
    found = [outcomes.get((app.name, "write"), bench.absence(app.name)) for app in SESSIONS]
    measured = [outcome for outcome in found if not isinstance(outcome, str)]
    return min(measured, key=lambda samples: spread(samples).median) if measured else found[0]
