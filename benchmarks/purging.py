"""How long requests wait while very many sessions are purged."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import apsw
from flask import Flask, g

from flask_dash_store import UserStoreMiddleware

from .bench import Bench
from .browser import new_visitors
from .crew import Crew
from .load_generator import Load
from .measure import Samples, interleaved, ratios
from .peers import SECRET_KEY, FlaskDashStore
from .results import Result, Table
from .servers import THREADS, WORKERS, gunicorn
from .small_values import VALUE

NEEDS = ("gunicorn",)
TITLE = "Requests while sessions are purged"
CONNECTIONS = 4
RATE = 200
ABOUT = f"""\
{RATE} requests per second, each reading and writing a key, through gunicorn with {WORKERS} workers of {THREADS}
threads, while {{count:,}} expired sessions lie in the store untouched; while `purge()` removes them in another process,
as a job at night would; and while the app itself removes them, a batch after each response. Requests are due at fixed
times, and a latency counts from when the request was due, so a server that stalls cannot hide it."""

REQUIRED = 100_000
ARMS = {"none": "nothing is purged", "beside": "another process purges", "after": "the app purges after responses"}

# In DESIGN's words: the table "sessions" keeps owner -> expiry; those that were ended are negative.
PAST = 'SELECT EXISTS (SELECT 1 FROM "sessions" WHERE value > 0 AND value <= ?)'


def create(folder: str, clock_file: str) -> Flask:
    """An app whose clock is the time of a file, so that it does not begin to purge before it is meant to."""
    app = Flask("benchmark")
    app.secret_key = SECRET_KEY
    UserStoreMiddleware(app, clock=lambda: os.stat(clock_file).st_mtime, url=f"sqlite:///{folder}/user_store.sqlite")

    @app.get("/start")
    def start() -> str:
        g.user_store["n"] = 0
        return "started"

    @app.get("/write")
    def write() -> str:
        g.user_store["n"] = n = g.user_store["n"] + 1
        return str(n)

    return app


class Trial:
    """The server, its clock, and what has expired in its store.

    :param crew: one :class:`FlaskDashStore` on the same file, in a process of its own
    """

    def __init__(self, port: int, folder: Path, clock_file: Path, crew: Crew, count: int, window: float) -> None:
        self._port = port
        self._clock_file = clock_file
        self._crew = crew
        self._count = count
        self._window = window
        self._cookies = new_visitors(port, CONNECTIONS)
        self._connection = apsw.Connection(str(folder / "user_store.sqlite"), flags=apsw.SQLITE_OPEN_READONLY)
        self._connection.set_busy_timeout(5000)
        self._warm_up()
        self.took: dict[str, Samples] = {arm: [] for arm in ARMS}

    def _warm_up(self) -> None:
        load = Load(self._port, "/write", self._cookies, connections=CONNECTIONS)
        time.sleep(1)
        load.stop()

    def none(self) -> None:
        time.sleep(self._window)

    def beside(self) -> None:
        self._crew.call("purge")
        if self._is_anything_past():  # The app may have purged a few of them itself.
            raise RuntimeError("not all that had expired was purged")

    def after(self) -> None:
        deadline = time.monotonic() + 400
        while self._is_anything_past():
            if time.monotonic() > deadline:
                raise TimeoutError("the app did not purge what has expired")
            # A minute, after which the app purges again even where it gave way to a writer.
            set_clock(self._clock_file, self._clock_file.stat().st_mtime + 61)
            time.sleep(0.03)

    def _is_anything_past(self) -> bool:
        return bool(self._connection.execute(PAST, (self._clock_file.stat().st_mtime,)).get)

    def p99(self, arm: str) -> Callable[[], float]:
        def subject() -> float:
            if not self._is_anything_past():
                self._crew.call("fill_expired", [f"expired-{number}" for number in range(self._count)], "key", VALUE)
            load = Load(self._port, "/write", self._cookies, connections=CONNECTIONS, rate=RATE)
            started = time.perf_counter()
            try:
                getattr(self, arm)()
                self.took[arm].append(time.perf_counter() - started)
            finally:
                counted = load.stop()
            return statistics.quantiles(counted["latencies"], n=100)[98]

        return subject


def set_clock(clock_file: Path, now: float) -> None:
    os.utime(clock_file, (now, now))


def measure(bench: Bench) -> Result:
    count, rounds = bench.choose(10_000, REQUIRED), bench.choose(1, 2)
    result = Result("purging", TITLE, ABOUT.format(count=count))
    bench.expect(len(ARMS) * rounds)
    place = bench.place.inside("purging")
    folder, clock_file = place.folder, place.folder / "clock"
    clock_file.touch()
    target = f"benchmarks.purging:create({str(folder)!r}, {str(clock_file)!r})"
    with gunicorn(target, folder) as port, Crew(1, FlaskDashStore, place) as crew:
        trial = Trial(port, folder, clock_file, crew, count, bench.choose(1.5, 4.0))
        outcomes = interleaved({arm: trial.p99(arm) for arm in ARMS}, rounds, bench.step)
    table = Table("99th percentile of a request", "ms", ["p99"])
    took = Table("How long the purge took", "s", ["time"], chart=None)
    for arm, text in ARMS.items():
        table.add(text, outcomes[arm], 1e3)
        if arm != "none":
            took.add(text, trial.took[arm] or "failed")
            few = f"not measured: --quick purges {count:,} sessions"
            result.ratios[f"purge_{arm}"] = ratios(outcomes[arm], outcomes["none"]) if count == REQUIRED else few
    result.tables = [table, took]
    return result
