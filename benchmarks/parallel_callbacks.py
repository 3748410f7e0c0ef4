"""Eight callbacks of one page in parallel, each storing a result of its own: how long, and how much is left of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from .apps import (
    APPS,
    CALLBACK_SECONDS,
    App,
    BareFlask,
    BareFlaskWithoutSecret,
    CookieSession,
    FlaskDashStoreApp,
    FlaskSessionRedis,
    ServersideByHand,
)
from .bench import Bench
from .browser import Browser
from .measure import Samples, interleaved
from .results import Result, Table
from .servers import THREADS, WORKERS, serve

NEEDS = ("gunicorn",)
TITLE = "Parallel callbacks"
CALLBACKS = 8
ABOUT = f"""\
A page sends {CALLBACKS} callbacks at once, each computes for {CALLBACK_SECONDS * 1000:.0f} ms and stores its result
under a key of its own, through gunicorn with {WORKERS} workers of {THREADS} threads. Of {CALLBACKS} keys, all should be
there afterwards. A store that reads the whole session before the callback and writes it whole after it keeps those
that came last."""

# These keep nothing, or cannot say what they keep.
LEFT_OUT = (BareFlask, BareFlaskWithoutSecret, ServersideByHand)
IN_QUICK: Sequence[type[App]] = (FlaskDashStoreApp, CookieSession, FlaskSessionRedis)


def measure(bench: Bench) -> Result:
    result = Result("parallel_callbacks", TITLE, ABOUT)
    compared = bench.runnable(bench.choose(IN_QUICK, [app for app in APPS if app not in LEFT_OUT]))
    if bench.is_quick:
        bench.leave_out("the other apps", "left out by --quick")
    names = [app.name for app in compared]
    rounds = bench.choose(5, 100)
    bench.expect(len(names) * rounds)
    kept: dict[str, Samples] = {name: [] for name in names}
    with serve(names, bench.place.inside("callbacks")) as ports, ThreadPoolExecutor(CALLBACKS) as threads:
        for port in ports.values():
            Browser(port).get("/start")
        subjects = {name: _page(port, threads, kept[name]) for name, port in ports.items()}
        outcomes = interleaved(subjects, rounds, bench.step)
    left = Table(f"Keys left of {CALLBACKS}", "keys", ["keys"])
    times = Table("Time of the page", "ms", ["time"])
    for name in names:
        left.add(name, kept[name] or outcomes[name])
        times.add(name, outcomes[name], 1e3)
    result.tables = [left, times]
    return result


def _page(port: int, threads: ThreadPoolExecutor, kept: Samples) -> Callable[[], float]:
    def subject() -> float:
        browser = Browser(port)
        browser.get("/start")
        paths = [f"/callback/result-{number}" for number in range(CALLBACKS)]
        started = perf_counter()
        list(threads.map(browser.get, paths))
        taken = perf_counter() - started
        kept.append(float(sum(key.startswith("result-") for key in json.loads(browser.get("/keys")))))
        return taken

    return subject
