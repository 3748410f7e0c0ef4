"""Parallel callbacks

A page sends 8 callbacks at once, each computes for 20 ms and stores its result under a key of its own, through gunicorn
with 2 workers of 4 threads. Of 8 keys, all should be there afterwards. A store that reads the whole session before the
callback and writes it whole after it keeps those that came last.
"""

from collections.abc import Sequence
from functools import partial
from time import perf_counter

from .apps import OURS, SESSIONS, create
from .bench import Bench
from .load import Visitor, new_visitors
from .measure import Samples
from .results import Findings, Table
from .servers import serve

CALLBACKS = 8


def measure(bench: Bench) -> Findings:
    names = bench.opened({name: partial(create, name) for name in SESSIONS})
    kept: dict[str, Samples] = {name: [] for name in names}
    with serve({name: bench.inside(f"{name}, served") for name in names}) as ports:
        pages = {name: partial(page, new_visitors(port, CALLBACKS), kept[name]) for name, port in ports.items()}
        outcomes = bench.interleaved(pages, bench.choose(5, 100))
    left = Table(f"Keys left of {CALLBACKS}", "keys", ["keys"])
    times = Table("Time of the page", "ms", ["time"])
    for name, outcome in outcomes.items():
        left.add(name, outcome if isinstance(outcome, str) else kept[name])
        times.add(name, outcome)
    return [left, times], {"callbacks": left.rows[OURS][0]}


def page(connections: Sequence[Visitor], kept: Samples) -> float:
    """The seconds that a new visitor's callbacks take; how many results are kept is added to ``kept``."""
    browser = connections[0]
    browser.cookies = {}
    browser.get("/start")
    for connection in connections:
        connection.cookies = browser.cookies  # Of two answers that set a cookie, the later one wins.
    started = perf_counter()
    for number, connection in enumerate(connections):
        connection.send(f"/callback/result-{number}")
    for connection in connections:
        connection.receive()
    taken = perf_counter() - started
    kept.append(float(browser.get("/kept")))
    return taken
