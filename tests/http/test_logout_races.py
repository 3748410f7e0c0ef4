"""A request in flight while its session ends brings nothing back (CVE-2025-46336), in whichever worker it is.

The slow request waits in its view until the test has logged out beside it.

Promises: docs/security.md, "The end of a session".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest
from http_visitor import Visitor
from servers import Port, Server, gunicorn, running
from slow_requests import TIMEOUT, SlowRequest
from visits import Browser, Site

from flask_dash_store import UserStore

APPS = Path(__file__).parents[1] / "support" / "apps"
SECRET = "only for these tests"
VALUE = "hunter2-is-my-password"

LEFT = {"/regenerate": {"name": [VALUE]}, "/destroy": {}}
HARMLESS = ["nothing", "read", "pop"]
REFUSED = ["write", "clear", "write large", "increment", "setdefault", "edit", "transaction"]
ASKING_FOR_A_SESSION = ["regenerate", "destroy"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("races")
    port = Port()
    settings = {"FLASK_SECRET_KEY": SECRET, "FLASK_USER_STORE_URL": f"sqlite:///{folder}/store.sqlite"}
    command = gunicorn("slow_app:server", port.number, APPS, "--log-level", "debug", "--access-logfile", "-")
    with running(command, port.number, folder, settings) as server:
        yield server
    port.close()


@pytest.fixture
def visitor(server: Server) -> Visitor:
    """One who has stored something."""
    visitor = Visitor(server.port)
    visitor.do("PUT", "/name", [VALUE])
    return visitor


@pytest.mark.parametrize("end", LEFT)
@pytest.mark.parametrize("use", HARMLESS + REFUSED)
def test_a_slow_request_brings_no_session_back_that_ended_meanwhile_and_replaces_no_new_cookie(
    visitor: Visitor, end: str, use: str
) -> None:
    late = Visitor(visitor.port, visitor.cookie)
    with SlowRequest(late, f"/slow/{use}".replace(" ", "%20")) as slow:
        visitor.do("POST", end)
        assert visitor.cookie != late.cookie
        answer = slow.finish()
    assert answer.status == (409 if use in REFUSED else 200)
    assert answer.body.get("values", {}) == {}
    assert answer.set_cookie is None
    for _ in range(4):  # of which some reach the other worker
        assert visitor.ask("GET", "/").body["values"] == LEFT[end]
        assert late.ask("GET", "/").body["values"] == {}
        assert late.ask("PUT", "/name", "late").status == 409


@pytest.mark.parametrize("end", LEFT)
@pytest.mark.parametrize("use", ASKING_FOR_A_SESSION)
def test_a_slow_request_that_asks_for_a_session_after_its_own_has_ended_is_given_a_fresh_one(
    visitor: Visitor, end: str, use: str
) -> None:
    late = Visitor(visitor.port, visitor.cookie)
    with SlowRequest(late, f"/slow/{use}") as slow:
        visitor.do("POST", end)
        answer = slow.finish()
    assert (answer.status, answer.body["values"]) == (200, {})
    assert answer.set_cookie is not None
    late.do("PUT", "/name", "fresh")
    for _ in range(4):
        assert late.values() == {"name": "fresh"}
        assert visitor.values() == LEFT[end]


@pytest.mark.parametrize("end", LEFT)
def test_a_transaction_that_is_open_while_its_session_ends_is_wholly_before_the_end(visitor: Visitor, end: str) -> None:
    late = Visitor(visitor.port, visitor.cookie)
    with SlowRequest(late, "/slow-transaction") as slow, ThreadPoolExecutor(1) as thread:
        ending = thread.submit(visitor.do, "POST", end)
        assert slow.finish().status == 200
        ending.result(TIMEOUT)
    assert visitor.values() == ({"name": "late"} if end == "/regenerate" else {})
    assert late.values() == {}


def test_no_row_is_left_of_any_session_that_was_destroyed(server: Server, visitor: Visitor) -> None:
    database = apsw.Connection(str(server.log_file.with_name("store.sqlite")))
    count = 'SELECT COUNT(*) FROM "values"'
    before = database.execute(count).get
    late = Visitor(visitor.port, visitor.cookie)
    with SlowRequest(late, "/slow/write%20large") as slow:
        visitor.do("POST", "/destroy")
        slow.finish()
    assert database.execute(count).get == before - 1
    database.close()


def test_the_servers_log_at_debug_level_tells_no_session_id_and_no_value(server: Server, visitor: Visitor) -> None:
    cookies = [visitor.cookie]
    for end in LEFT:
        late = Visitor(visitor.port, visitor.cookie)
        with SlowRequest(late, "/slow/write") as slow:
            visitor.do("POST", end)
            slow.finish()
        cookies.append(visitor.cookie)
        visitor.do("PUT", "/name", [VALUE])
    late.cookie = f"{visitor.cookie}x"
    late.values()
    cookies.append(late.cookie)
    secrets = {part for cookie in cookies for part in (cookie or "").split(".") if len(part) > 20} | {VALUE, SECRET}
    assert len(secrets) > 8
    assert logging.getLevelName(logging.DEBUG) in server.log
    assert '"POST /destroy HTTP/1.1" 200' in server.log
    assert [secret for secret in secrets if secret in server.log] == []


def test_while_regenerate_moves_the_values_the_old_id_has_all_of_them_or_none(clock: Any, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    browser = Browser(site)
    values = {f"key-{number}": number for number in range(50)}
    browser.visit(lambda store: store.update(values))

    def watch(store: UserStore) -> list[int]:
        seen = [50]
        while seen[-1]:
            seen.append(len(store.copy()))
        return seen

    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            watchers = [threads.submit(watch, site.middleware.open(browser.id)) for _ in range(2)]
            browser.visit(UserStore.regenerate)
            for watcher in watchers:
                assert set(watcher.result(TIMEOUT)) == {50, 0}
            assert browser.visit(UserStore.copy) == values
