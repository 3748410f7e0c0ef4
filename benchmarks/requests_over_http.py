"""Requests, over HTTP

Requests per second through gunicorn, 2 workers of 4 threads each, over 8 connections that are kept alive, as many of
them to each worker. All servers run, and are asked alternately, for half a second at a time. The load generator runs on
the same cores, and gunicorn itself costs more than any store: the differences are smaller here than in process.
"""

from functools import partial

from .apps import APPS, BARE, OURS, RAW, create
from .bench import Bench
from .load import new_visitors, requests_per_second
from .measure import ratio
from .requests_in_process import KINDS
from .results import Findings, Table
from .servers import serve

CONNECTIONS = 8


def measure(bench: Bench) -> Findings:
    seconds, subjects = bench.choose(0.25, 0.5), {}
    # Opened here too, to see whether all that an app needs is installed.
    names = list(bench.opened({name: partial(create, name) for name in bench.choose([BARE, RAW, OURS], [*APPS])}))
    with serve({name: bench.inside(f"{name}, served") for name in names}) as ports:
        for name, port in ports.items():
            visitors = new_visitors(port, CONNECTIONS)
            for kind in KINDS:
                subjects[name, kind] = partial(requests_per_second, visitors, f"/{kind}", seconds)
        outcomes = bench.interleaved(subjects, bench.choose(5, 41))
    table = Table.of("Through gunicorn", "requests per second", KINDS, outcomes)
    return [table], {f"http_{kind}": ratio(outcomes, (OURS, kind), (RAW, kind)) for kind in ("read", "write")}
