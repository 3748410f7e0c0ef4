"""How many requests per second gunicorn answers, two workers of four threads, under a load generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .apps import APPS, App, BareFlask, FlaskDashStoreApp, FlaskSessionRedis
from .bench import Bench
from .browser import new_visitors
from .load_generator import CONNECTIONS, requests_per_second, version
from .measure import interleaved
from .requests_in_process import KINDS
from .results import Result, Table
from .servers import THREADS, WORKERS, serve

NEEDS = ("gunicorn",)
TITLE = "Requests, over HTTP"
ABOUT = f"""\
Requests per second through gunicorn, {WORKERS} workers of {THREADS} threads each, over {CONNECTIONS} connections that
are kept alive, from as many visitors in turn. The load generator, {{generator}}, runs on the same cores, and gunicorn
itself costs more than any store: the differences are smaller here than in process."""

IN_QUICK: Sequence[type[App]] = (BareFlask, FlaskDashStoreApp, FlaskSessionRedis)
KINDS_IN_QUICK = ("untouched", "write")

# Many short rounds: with each the connections are spread anew, and the kernel may give most of them to one worker.
SECONDS = 1


def measure(bench: Bench) -> Result:
    result = Result("requests_over_http", TITLE, ABOUT.format(generator=version()))
    apps = bench.runnable(bench.choose(IN_QUICK, APPS))
    if bench.is_quick:
        bench.leave_out("the other apps, and a request that only reads", "left out by --quick")
    kinds = [kind for kind in KINDS if not bench.is_quick or kind in KINDS_IN_QUICK]
    rounds = bench.choose(1, 11)
    bench.expect(len(apps) * len(kinds) * rounds)
    with serve([app.name for app in apps], bench.place.inside("http")) as ports:
        subjects = {}
        for name, port in ports.items():
            cookies = new_visitors(port, CONNECTIONS)
            for kind in kinds:
                subjects[name, kind] = _rate(bench, port, f"/{kind}", cookies)
        outcomes = interleaved(subjects, rounds, bench.step)
    table = Table("A request through gunicorn", "requests per second", [KINDS[kind] for kind in kinds])
    for app in apps:
        for kind in kinds:
            table.add(app.name, outcomes[app.name, kind])
    result.tables = [table]
    return result


def _rate(bench: Bench, port: int, path: str, cookies: list[str]) -> Callable[[], float]:
    return lambda: requests_per_second(port, path, cookies, SECONDS, bench.place.folder)
