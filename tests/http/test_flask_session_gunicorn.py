"""``flask.session`` under a real gunicorn with two workers, whose requests are in flight together, on each backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from http_visitor import THREADS, Visitor, ask_both_workers
from servers import Port, gunicorn, running
from slow_requests import SlowRequest
from urls import URLS

APPS = Path(__file__).parents[1] / "support" / "apps"


@pytest.fixture(scope="module", params=URLS)
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a gunicorn whose workers have a thread for each request of a test, however they are spread."""
    folder = tmp_path_factory.mktemp("session")
    port = Port()
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": URLS[request.param](folder)}
    command = gunicorn("session_app:server", port.number, APPS, "--threads", str(THREADS + 1))
    with running(command, port.number, folder, settings):
        yield port.number
    port.close()


@pytest.fixture
def visitor(port: int) -> Visitor:
    """One whose session has begun."""
    visitor = Visitor(port, name="session")
    visitor.do("POST", "/put/begun", 1)
    return visitor


def twin(visitor: Visitor) -> Visitor:
    """Another request of the same browser, or a thief."""
    return Visitor(visitor.port, visitor.cookie, visitor.name)


def all_in_flight(visitor: Visitor, paths: list[str]) -> None:
    """Make requests of which each has read the session before any of them changes it."""
    with ExitStack() as stack:
        requests = [stack.enter_context(SlowRequest(twin(visitor), path)) for path in paths]
        answers = [request.finish() for request in requests]
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body["before"] == {"begun": 1} for answer in answers)
    assert {answer.set_cookie for answer in answers} == {None}


def test_eight_parallel_requests_that_set_a_key_each_keep_all_eight(visitor: Visitor) -> None:
    keys = [f"key-{number}" for number in range(THREADS)]
    all_in_flight(visitor, [f"/slow/{key}" for key in keys])
    assert visitor.values() == {"begun": 1} | dict.fromkeys(keys, True)


def test_eight_parallel_requests_that_flash_a_message_each_keep_all_eight(visitor: Visitor) -> None:
    messages = [f"message-{number}" for number in range(THREADS)]
    all_in_flight(visitor, [f"/slow-flash/{message}" for message in messages])
    assert sorted(visitor.do("GET", "/messages")["messages"]) == messages
    assert visitor.do("GET", "/messages")["messages"] == []


def test_a_slow_request_that_writes_after_the_logout_leaves_the_browser_logged_out(visitor: Visitor) -> None:
    visitor.do("POST", "/login/ada")
    late = twin(visitor)
    with SlowRequest(late, "/slow/late") as slow:
        visitor.do("POST", "/logout")
        answer = slow.finish()
    assert (answer.status, answer.set_cookie) == (200, None)
    for each in (visitor, late):
        assert all(answer.body["values"] == {} for answer in ask_both_workers(each, "GET", "/"))


def test_a_planted_cookie_opens_nothing_after_the_victims_login(visitor: Visitor) -> None:
    thief = twin(visitor)
    assert thief.values() == {"begun": 1}
    visitor.do("POST", "/login/victim")
    assert all(answer.body["values"] == {} for answer in ask_both_workers(thief, "GET", "/"))
    assert visitor.values() == {"begun": 1, "_user_id": "victim"}
