"""The main promises over plain HTTP on each backend, against a real gunicorn of two workers with four threads each.

Promises: docs/reliability.md, "Acknowledged means stored"; docs/security.md, "The end of a session". Stores that read
and write a session whole lose parallel writes: https://github.com/pallets-eco/flask-session/issues/71.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from http.client import HTTPException
from pathlib import Path
from threading import Event, Semaphore
from typing import Self

import pytest
from http_visitor import THREADS, TIMEOUT, Visitor, ask_both_workers, in_parallel
from servers import Port, Server, gunicorn, running
from urls import URLS

APPS = Path(__file__).parents[1] / "support" / "apps"


def serving(port: int, folder: Path, backend: str, *options: str) -> AbstractContextManager[Server]:
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": URLS[backend](folder)}
    return running(gunicorn("plain_app:server", port, APPS, *options), port, folder, settings)


@pytest.fixture(
    scope="module",
    params=[("sqlite",), ("sqlite", "--preload"), ("redis", "--preload"), ("postgresql", "--preload")],
    ids=["sqlite", "sqlite, preload", "redis, preload", "postgresql, preload"],
)
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a gunicorn that serves all tests of this module."""
    port = Port()
    with serving(port.number, tmp_path_factory.mktemp("gunicorn"), *request.param):
        yield port.number
    port.close()


class Writers:
    """Eight threads that write key after key to the session of a cookie, until it ends or they are stopped.

    ``acknowledged`` is what they were told is stored.
    """

    def __init__(self, port: int, cookie: str | None) -> None:
        self.acknowledged: dict[str, int] = {}
        self.workers: Counter[int] = Counter()
        self._visitors = [Visitor(port, cookie) for _ in range(THREADS)]
        self._progress = Semaphore(0)
        self._stop = Event()
        self._threads = ThreadPoolExecutor(THREADS)
        self._ends = [self._threads.submit(self._write, number) for number in range(THREADS)]

    def _write(self, number: int) -> None:
        for count in itertools.count():
            if self._stop.is_set():
                return
            key = f"{number}-{count}"
            with suppress(OSError, HTTPException):  # a worker that is killed acknowledges nothing
                answer = self._visitors[number].ask("PUT", f"/{key}", count)
                if answer.status == 409:
                    return
                assert answer.status == 200, answer
                self.acknowledged[key] = count
                self.workers[answer.body["worker"]] += 1
                self._progress.release()

    def wait_for(self, writes: int) -> None:
        for _ in range(writes):
            assert self._progress.acquire(timeout=TIMEOUT), "the writers are stuck"

    def wait_for_end(self) -> None:
        for end in self._ends:
            end.result(timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads.shutdown()


def test_a_visitor_has_one_session_and_gets_one_cookie_whichever_worker_answers(port: int) -> None:
    visitor = Visitor(port)
    first = visitor.ask("GET", "/")
    assert first.set_cookie is not None
    answers = ask_both_workers(visitor, "GET", "/")
    assert {answer.body["session"] for answer in answers} == {first.body["session"]}
    assert {answer.set_cookie for answer in answers} == {None}


def test_what_one_worker_writes_the_other_sees_at_once(port: int) -> None:
    visitor = Visitor(port)
    for value in range(5):
        visitor.do("PUT", "/key", value)
        assert {answer.body["values"]["key"] for answer in ask_both_workers(visitor, "GET", "/")} == {value}


def test_parallel_writers_of_different_keys_lose_nothing(port: int) -> None:
    visitor = Visitor(port)
    visitor.values()

    def write(number: int) -> set[int]:
        return {visitor.do("PUT", f"/{number}-{count}", count)["worker"] for count in range(25)}

    workers = set().union(*in_parallel(write))
    assert visitor.values() == {f"{number}-{count}": count for number in range(THREADS) for count in range(25)}
    assert len(workers) == 2


def test_parallel_increments_are_exact(port: int) -> None:
    visitor = Visitor(port)
    visitor.values()
    sums = in_parallel(lambda _: [visitor.do("POST", "/increment")["n"] for _ in range(50)])
    assert sorted(itertools.chain(*sums)) == list(range(1, THREADS * 50 + 1))
    assert visitor.values() == {"n": THREADS * 50}


@pytest.mark.parametrize(("end", "left"), [("/regenerate", {"key": 1}), ("/destroy", {})])
def test_a_session_that_ended_is_dead_in_all_workers_at_once(port: int, end: str, left: dict[str, int]) -> None:
    visitor = Visitor(port)
    visitor.do("PUT", "/key", 1)
    old = Visitor(port, visitor.cookie)
    ask_both_workers(old, "GET", "/")

    visitor.do("POST", end)

    reads = ask_both_workers(old, "GET", "/")
    writes = ask_both_workers(old, "PUT", "/key", 2)
    assert [answer.body["values"] for answer in reads] == [{}] * len(reads)
    assert {answer.status for answer in writes} == {409}
    assert {answer.set_cookie for answer in reads + writes} == {None}
    assert all(answer.body["values"] == left for answer in ask_both_workers(visitor, "GET", "/"))


@pytest.mark.parametrize("end", ["/regenerate", "/destroy"])
def test_writes_are_in_the_session_before_its_end_and_refused_after_it(port: int, end: str) -> None:
    visitor = Visitor(port)
    visitor.values()
    old = Visitor(port, visitor.cookie)
    with Writers(port, visitor.cookie) as writers:
        writers.wait_for(40)
        visitor.do("POST", end)
        writers.wait_for_end()
    assert visitor.values() == (writers.acknowledged if end == "/regenerate" else {})
    assert old.values() == {}


def test_a_worker_that_is_killed_loses_no_acknowledged_write(port: int) -> None:
    visitor = Visitor(port)
    visitor.values()
    with Writers(port, visitor.cookie) as writers:
        writers.wait_for(50)
        [(killed, _)] = writers.workers.most_common(1)
        os.kill(killed, signal.SIGKILL)
        writers.wait_for(50)
    stored = visitor.values()
    assert {key: stored.get(key) for key in writers.acknowledged} == writers.acknowledged
    assert killed not in {answer.body["worker"] for answer in ask_both_workers(visitor, "GET", "/")}


def test_fifty_visitors_at_once_never_see_each_others_values(port: int) -> None:
    visitors = {f"visitor {number}": Visitor(port) for number in range(50)}

    def visit(name: str) -> str:
        visitor = visitors[name]
        visitor.do("PUT", "/tag", name)
        body = visitor.do("GET", "/")
        assert body["values"] == {"tag": name}
        return str(body["session"])

    with ThreadPoolExecutor(THREADS) as threads:
        sessions = Counter(session for _ in range(4) for session in threads.map(visit, visitors))
    assert set(sessions.values()) == {4}
    assert len({visitor.cookie for visitor in visitors.values()}) == len(sessions) == 50


@pytest.mark.parametrize(
    ("backend", "with_signal"),
    [("sqlite", signal.SIGTERM), ("sqlite", signal.SIGKILL), ("redis", signal.SIGKILL), ("postgresql", signal.SIGKILL)],
    ids=lambda each: getattr(each, "name", each),
)
def test_a_restart_keeps_sessions_and_values(tmp_path: Path, backend: str, with_signal: signal.Signals) -> None:
    port = Port()
    visitor = Visitor(port.number)
    with serving(port.number, tmp_path, backend) as server:
        visitor.do("PUT", "/key", "value")
        before = visitor.ask("GET", "/")
        server.stop(with_signal)
    with serving(port.number, tmp_path, backend):
        after = visitor.ask("GET", "/")
    port.close()
    assert after.set_cookie is None
    assert after.body["session"] == before.body["session"]
    assert after.body["values"] == before.body["values"] == {"key": "value"}
