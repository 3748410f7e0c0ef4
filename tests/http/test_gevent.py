"""gunicorn's gevent workers: greenlets instead of threads, and all promises hold.

eventlet's worker is gone from gunicorn (https://docs.gunicorn.org/en/stable/news.html).

Promises: docs/reliability.md, "Where it runs".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from http_visitor import Visitor, ask_both_workers, in_parallel
from servers import Port, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"
TIMES = 25
TIMEOUT = 10


@pytest.fixture(scope="module", params=[(), ("--preload",)], ids=["plain", "preload"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("gevent")
    environ = {
        "FLASK_SECRET_KEY": "only for these tests",
        "FLASK_USER_STORE_URL": f"sqlite:///{folder}/store.sqlite",
        "FLASK_USER_STORE_TIMEOUT": str(TIMEOUT),
    }
    with closing(Port()) as port:
        command = gunicorn("fault_app:server", port.number, APPS, "--worker-class", "gevent", *request.param)
        with running(command, port.number, folder, environ) as server:
            ask_both_workers(Visitor(port.number), "GET", "/")
            yield port.number
    assert "Using worker: gevent" in server.log


def new_visitor(port: int) -> Visitor:
    visitor = Visitor(port)
    visitor.do("GET", "/values")
    return visitor


def test_parallel_increments_are_exact(port: int) -> None:
    visitor = new_visitor(port)
    sums = in_parallel(lambda _: [visitor.do("POST", "/increment")["n"] for _ in range(TIMES)])
    assert sorted(itertools.chain(*sums)) == list(range(1, 8 * TIMES + 1))


def test_no_value_is_ever_in_anothers_answer(port: int) -> None:
    def visit(number: int) -> set[str]:
        visitor = new_visitor(port)
        sessions = set()
        for n in range(TIMES):
            visitor.do("PUT", "/values/tag", f"{number} {n}" * 1000)
            body = visitor.do("GET", "/values")
            assert body["values"] == {"tag": f"{number} {n}" * 1000}
            sessions.add(body["session"])
        return sessions

    assert len(set().union(*in_parallel(visit))) == 8


def test_a_block_that_sleeps_keeps_no_reader_waiting_and_each_writer_acquires_the_lock(
    port: int, tmp_path: Path
) -> None:
    holder, *writers = [new_visitor(port) for _ in range(7)]
    is_over = tmp_path / "over"
    with ThreadPoolExecutor(8) as threads:
        block = threads.submit(holder.do, "POST", "/hold", str(is_over))
        writes = [threads.submit(visitor.ask, "PUT", "/values/key", "after") for visitor in writers]
        for _ in range(30):
            answers = ask_both_workers(holder, "GET", "/values")
            assert all(answer.body["values"] == {} for answer in answers)
        is_over.touch()
        assert block.result(TIMEOUT)
        assert {write.result(TIMEOUT).status for write in writes} == {200}
    assert holder.do("GET", "/values")["values"] == {"left": "held", "right": "held"}
