"""uWSGI, which forks in C, where no hook of Python's runs: its workers lose no acknowledged write.

Without a master, the process that has made the app is the first worker, and the parent of the others; with
``--lazy-apps`` each worker makes its own app:
https://uwsgi-docs.readthedocs.io/en/latest/articles/TheArtOfGracefulReloading.html.

Promises: docs/reliability.md, "Where it runs". What a fork must not do with an open database:
https://www.sqlite.org/howtocorrupt.html, section 2.6.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlite_file
from http_visitor import THREADS, Visitor, ask_both_workers, in_parallel
from servers import Port, running

APPS = Path(__file__).parents[1] / "support" / "apps"
TIMES = 25

UWSGI = str(Path(sys.executable).with_name("uwsgi"))


def uwsgi(target: str, port: int, *options: str) -> list[str]:
    """The command for a module of ``APPS`` and a name in it, with 2 workers x 4 threads."""
    return [
        *(UWSGI, "--die-on-term", "--need-app", "--chdir", str(APPS), "--virtualenv", sys.prefix),
        *("--http-socket", f"127.0.0.1:{port}", "--processes", "2", "--threads", "4"),
        *options,
        *("--module", target),
    ]


@pytest.mark.parametrize(
    ("options", "target"),
    [
        pytest.param((), "fault_app:server", id="alone-unused"),
        pytest.param((), "early_app:server", id="alone-used before the fork"),
        pytest.param(("--master",), "fault_app:server", id="master-unused"),
        pytest.param(("--master",), "early_app:server", id="master-used before the fork"),
        pytest.param(("--master", "--lazy-apps"), "fault_app:server", id="lazy"),  # Each worker makes its app.
    ],
)
def test_all_acknowledged_increments_are_there(url: str, tmp_path: Path, options: tuple[str, ...], target: str) -> None:
    environ = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": url}
    with closing(Port()) as port, running(uwsgi(target, port.number, *options), port.number, tmp_path, environ):
        visitor = Visitor(port.number)
        visitor.do("GET", "/values")
        ask_both_workers(visitor, "GET", "/values")
        sums = in_parallel(lambda _: [visitor.do("POST", "/increment")["n"] for _ in range(TIMES)])
        assert sorted(itertools.chain(*sums)) == list(range(1, THREADS * TIMES + 1))
        for answer in ask_both_workers(visitor, "GET", "/values"):
            assert answer.body["values"] == {"n": THREADS * TIMES}
    if url.startswith("sqlite"):
        assert sqlite_file.problems(Path(urlsplit(url).path)) == []
