"""What an app is promised holds on each backend: in one process with a clock of the test's own, and under gunicorn.

More of it over HTTP is in test_gunicorn.py, which serves from each backend too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from backends import Child
from clocks import HandClock
from flask import Flask
from http_visitor import Visitor
from servers import Port, gunicorn, running
from urls import rewrite
from visits import LIFETIME, TTL, Browser, Site, Use, read, write

from flask_dash_store import (
    QuotaExceeded,
    SessionEnded,
    StorageBusy,
    TamperedValue,
    TooManyKeys,
    UserStore,
    UserStoreMiddleware,
    ValueTooLarge,
)

APPS = Path(__file__).parents[1] / "support" / "apps"
KEYS = [f"key-{number}" for number in range(8)]
PROCESSES, THREADS, TIMES = 4, 8, 200

NewSite = Callable[..., Site]


@pytest.fixture
def new_site(clock: HandClock, tmp_path: Path, url: str) -> NewSite:
    """Makes one more worker of the app."""
    return partial(Site, clock, tmp_path, url=url)


@pytest.fixture
def browser(new_site: NewSite) -> Browser:
    """One whose visitor has stored a name."""
    browser = Browser(new_site())
    browser.visit(write)
    return browser


def raising(kind: type[Exception], match: str, use: Use) -> Use:
    def check(store: UserStore) -> None:
        with pytest.raises(kind, match=match):
            use(store)

    return check


# How long values are kept


def test_values_are_kept_while_they_are_used_and_gone_after_the_idle_time(browser: Browser, clock: HandClock) -> None:
    for _ in range(4):
        clock.step(TTL - 1)
        assert browser.visit(read) == "Ada"
    clock.step(TTL)
    assert (browser.visit(read), browser.visit(dict)) == (None, {})
    browser.visit(write)
    assert (browser.visit(read), browser.cookies_received) == ("Ada", 1)


def test_a_session_ends_at_its_lifetime_however_busy_it_is(browser: Browser, clock: HandClock) -> None:
    first = browser.id
    for _ in range(int(LIFETIME / TTL * 2) - 1):
        clock.step(TTL / 2)
        assert browser.visit(read) == "Ada"
    clock.step(TTL / 2)
    assert browser.visit(read) is None
    assert (browser.id != first, browser.cookies_received) == (True, 2)


def test_a_key_with_a_ttl_of_its_own_is_gone_in_time_whatever_is_done_with_it(
    browser: Browser, clock: HandClock
) -> None:
    browser.visit(lambda store: (store.set("code", 1, ttl=100), store.set("late", 1), store.expire("late", 200)))
    clock.step(99)
    assert browser.visit(lambda store: store.increment("code")) == 2
    clock.step(1)
    assert browser.visit(lambda store: (store.get("code"), "code" in store)) == (None, False)
    assert browser.visit(list) == ["name", "late"]
    clock.step(100)
    assert browser.visit(dict) == {"name": "Ada"}


# What it refuses


@pytest.mark.parametrize(
    ("options", "kind", "setting", "use"),
    [
        ({"max_bytes": 10_000}, QuotaExceeded, "USER_STORE_MAX_BYTES", lambda store: store.update(a=1, b="b" * 10_000)),
        ({"max_keys": 2}, TooManyKeys, "USER_STORE_MAX_KEYS", lambda store: store.update(a=1, b=2)),
        ({"max_value_bytes": 99}, ValueTooLarge, "USER_STORE_MAX_VALUE_BYTES", lambda store: store.update(a="a" * 99)),
    ],
    ids=["bytes", "keys", "value"],
)  # fmt: skip
def test_what_is_too_much_is_an_error_that_names_the_setting_and_changes_nothing(
    new_site: NewSite, options: dict[str, Any], kind: type[Exception], setting: str, use: Use
) -> None:
    browser, other = Browser(new_site(**options)), Browser(new_site(**options))
    browser.visit(write)
    browser.visit(raising(kind, setting, use))
    assert browser.visit(dict) == {"name": "Ada"}
    other.visit(lambda store: store.update(a=1, b=2) if kind is not TooManyKeys else write(store))


@pytest.mark.parametrize(
    "change",
    [lambda payload: bytes([payload[0] ^ 1]) + payload[1:], lambda payload: payload[:-1], lambda payload: b""],
    ids=["a bit", "cut", "empty"],
)
def test_a_value_that_was_changed_on_the_server_costs_its_own_key_alone(
    browser: Browser, url: str, change: Callable[[bytes], bytes]
) -> None:
    browser.visit(lambda store: store.update(city="Paris"))
    rewrite(url, "name", change)
    browser.visit(raising(TamperedValue, "name", read))
    assert browser.visit(lambda store: (list(store), store["city"])) == (["name", "city"], "Paris")
    browser.visit(write)
    assert browser.visit(dict) == {"name": "Ada", "city": "Paris"}


def test_a_value_that_was_moved_to_another_visitor_or_key_is_refused(
    browser: Browser, new_site: NewSite, url: str
) -> None:
    thief = Browser(new_site())
    thief.visit(lambda store: store.update(other=1, name="Bob"))
    payloads: list[bytes] = []
    rewrite(url, "name", lambda payload: payloads.append(payload) or payload)
    ada, bob = payloads
    rewrite(url, "name", lambda payload: ada if payload == bob else bob)
    for each in (browser, thief):
        each.visit(raising(TamperedValue, "name", read))
    for payload in payloads:
        rewrite(url, "other", lambda _, payload=payload: payload)
        thief.visit(raising(TamperedValue, "other", lambda store: store["other"]))


# Transactions, and the end of a session, over two workers


def test_an_exception_rolls_back_the_whole_transaction_and_an_inner_one_can_fail_by_itself(browser: Browser) -> None:
    def fail(store: UserStore) -> None:
        with suppress(ZeroDivisionError), store.transaction():
            store.update(name="Bob", city="Paris")
            raise ZeroDivisionError

    def fail_inside(store: UserStore) -> None:
        with store.transaction():
            store["kept"] = 1
            fail(store)

    browser.visit(fail)
    assert browser.visit(dict) == {"name": "Ada"}
    browser.visit(fail_inside)
    assert browser.visit(dict) == {"name": "Ada", "kept": 1}


def test_a_writer_waits_for_a_transaction_of_the_same_visitor_and_gives_up_in_time(
    browser: Browser, new_site: NewSite
) -> None:
    other = browser.in_flight(new_site(timeout=0.05))

    def transact(store: UserStore) -> None:
        with store.transaction(), ThreadPoolExecutor(1) as thread:
            store["name"] = "Bob"
            thread.submit(other.visit, raising(StorageBusy, "USER_STORE_TIMEOUT", write)).result(60)
            assert thread.submit(other.visit, read).result(60) == "Ada"

    browser.visit(transact)
    assert other.visit(read) == "Bob"


@pytest.mark.parametrize("end", [UserStore.regenerate, UserStore.destroy])
def test_an_end_is_final_at_once_for_what_another_worker_has_in_flight(
    browser: Browser, new_site: NewSite, end: Use
) -> None:
    late = browser.in_flight(new_site())

    def end_meanwhile(store: UserStore) -> None:
        assert read(store) == "Ada"
        browser.visit(end)
        assert read(store) is None
        raising(SessionEnded, "next request", write)(store)

    late.visit(end_meanwhile)
    assert late.cookies_received == 0
    assert browser.visit(dict) == ({"name": "Ada"} if end is UserStore.regenerate else {})
    assert Browser(late.site, late.cookie).visit(dict) == {}


# Many at once


@pytest.fixture
def port(url: str, tmp_path: Path) -> Iterator[int]:
    """The port of a gunicorn that serves a Dash app."""
    port = Port()
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": url}
    with running(gunicorn("parallel_app:make_server()", port.number, APPS), port.number, tmp_path, settings):
        yield port.number
    port.close()


def callback(visitor: Visitor, output: str, inputs: list[str], load: str) -> Any:
    """What a callback of the page answers, asked as Dash's renderer asks."""
    request = {
        "output": f"{output}.children",
        "outputs": {"id": output, "property": "children"},
        "inputs": [{"id": name, "property": "children", "value": load} for name in inputs],
        "state": [{"id": "load", "property": "children", "value": load}] if len(inputs) > 1 else [],
        "changedPropIds": [f"{inputs[0]}.children"],
    }
    return visitor.do("POST", "/_dash-update-component", request)["response"][output]["children"]


def test_eight_callbacks_in_parallel_keep_eight_keys(port: int) -> None:
    sessions = set()
    with ThreadPoolExecutor(THREADS) as threads:
        visitors = [Visitor(port), Visitor(port)]
        for visitor in visitors:
            visitor.do("GET", "/_dash-layout")
        for load in [f"load {number}" for number in range(10)]:
            written = [threads.submit(callback, visitor, key, ["load"], load) for key in KEYS for visitor in visitors]
            assert [each.result(60) for each in written] == [key for key in KEYS for _ in visitors]
            for visitor in visitors:
                report = json.loads(callback(visitor, "report", KEYS, load))
                assert report["values"] == dict.fromkeys(KEYS, f" {load}")
                sessions.add(report["session"])
    assert len(sessions) == 2


def open_store(url: str) -> UserStore:
    app = Flask(__name__)
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url=url, timeout=60).for_user("ann")


def count(url: str, times: int, gate: Barrier) -> None:
    store = open_store(url)
    gate.wait(60)

    def count_in_thread(_: int) -> None:
        for _ in range(times):
            store.increment("n")

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(count_in_thread, range(THREADS)))


def test_4_processes_with_8_threads_count_to_6400(url: str) -> None:
    """On PostgreSQL to 1600, which takes as long."""
    times = TIMES // 4 if url.startswith("postgresql:") else TIMES
    gate = get_context("fork").Barrier(PROCESSES)
    children = [Child("fork", count, url, times, gate) for _ in range(PROCESSES)]
    assert [child.outcome(timeout=110) for child in children] == [None] * PROCESSES
    assert open_store(url)["n"] == PROCESSES * THREADS * times
