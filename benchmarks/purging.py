"""Requests while sessions are purged

200 requests per second, each reading and writing a key, through gunicorn with 2 workers of 4 threads, while 100,000
expired sessions (a tenth of them with `--quick`) lie in the store untouched; while `purge()` removes them in another
process, as a job at night would; and while the app itself removes them after responses, for half a minute. Requests are
due at fixed times, and a latency counts from when the request was due, so a server that stalls cannot hide it.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .apps import BY_A_CLOCK
from .bench import Bench
from .crew import Crew
from .load import Visitor, latencies, new_visitors
from .measure import Samples, ratio
from .peers import install, session_id, sqlite_url
from .results import Findings, Table
from .servers import serve
from .small_values import VALUE

CONNECTIONS = 4
RATE = 200
DAY = 24 * 60 * 60


class Purger:
    """Fills a store with sessions that have expired, and purges it."""

    def __init__(self, folder: Path) -> None:
        self.purge = install(sqlite_url(folder)).purge
        self._long_ago = install(sqlite_url(folder), lambda: time.time() - 2 * DAY)

    def fill(self, count: int) -> None:
        for number in range(count):
            self._long_ago.open(session_id(f"expired-{number}"))["key"] = VALUE


@dataclass
class Trial:
    """A server's visitors, its clock, and a :class:`Purger` of its file in a process of its own."""

    visitors: list[Visitor]
    clock: Path
    crew: Crew
    count: int
    window: float
    rates: dict[str, Samples] = field(default_factory=dict)

    def arms(self) -> dict[str, Callable[[], int | None]]:
        return {
            "nothing is purged": lambda: time.sleep(self.window),
            "another process purges": self.purge,
            "the app purges after responses": self.advance,
        }

    def p99(self, arm: str) -> float:
        self.crew.call("fill", self.count)
        over, started = threading.Event(), time.perf_counter()
        with ThreadPoolExecutor(1) as thread:
            load = thread.submit(latencies, self.visitors, "/write", RATE, over)
            try:
                removed = self.arms()[arm]()
            finally:
                over.set()
            taken = time.perf_counter() - started
        rest = self.purge()
        self.rates.setdefault(arm, []).append((removed or self.count - rest) / taken)
        return statistics.quantiles(load.result(), n=100)[98]

    def purge(self) -> int:
        return sum(self.crew.call("purge"))

    def advance(self) -> None:
        deadline = time.monotonic() + self.window
        while time.monotonic() < deadline:
            # A minute, after which the app purges again even where it gave way to a writer.
            now = self.clock.stat().st_mtime + 61
            os.utime(self.clock, (now, now))
            time.sleep(0.03)


def measure(bench: Bench) -> Findings:
    clock, count, window = bench.folder / "clock", bench.choose(10_000, 100_000), bench.choose(3.0, 30.0)
    clock.touch()  # The app's time stands still, so it does not begin to purge before it is meant to.
    with serve({BY_A_CLOCK: bench.folder}) as ports, Crew(1, Purger, bench.folder) as crew:
        trial = Trial(new_visitors(ports[BY_A_CLOCK], CONNECTIONS), clock, crew, count, window)
        outcomes = bench.interleaved({arm: partial(trial.p99, arm) for arm in trial.arms()}, bench.choose(1, 3))
    latency = Table("99th percentile of a request", "ms", ["p99"])
    rate = Table("How fast they are purged", "sessions per second", ["rate"])
    for arm, outcome in outcomes.items():
        latency.add(arm, outcome)
        rate.add(arm, trial.rates.get(arm, outcome))
    none, beside, after = trial.arms()
    return [latency, rate], {"purge_beside": ratio(outcomes, beside, none), "purge_after": ratio(outcomes, after, none)}
