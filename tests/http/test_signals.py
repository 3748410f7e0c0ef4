"""Signals tell an app of its sessions: each once, with what a receiver needs, and without anything that opens one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from clocks import HandClock
from flask import Flask, g, has_request_context
from flask_login import LoginManager, UserMixin, login_user
from urls import URLS
from visits import LIFETIME, SECRET, TTL, Browser, Site, nothing, read, write

from flask_dash_store import (
    UserStore,
    UserStoreMiddleware,
    session_ended,
    session_regenerated,
    session_started,
    user_logged_in,
)

SIGNALS = {
    "started": session_started,
    "regenerated": session_regenerated,
    "ended": session_ended,
    "logged in": user_logged_in,
}


class Listener:
    """Hears all signals of an app, and notes each with what it was sent with, but for the visitor's name."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.visitors: list[str] = []

    def hear(self, name: str, visitor: str, **arguments: Any) -> None:
        self.visitors.append(visitor)
        self.heard.append((name, *arguments.values()))

    def new(self) -> list[tuple[Any, ...]]:
        """What was heard since this was asked last."""
        heard, self.heard = self.heard, []
        return heard


@contextmanager
def listening(app: Flask) -> Iterator[Listener]:
    listener = Listener()
    receivers = {
        signal: lambda _, name=name, **arguments: listener.hear(name, **arguments) for name, signal in SIGNALS.items()
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver, sender=app)
    yield listener
    for signal, receiver in receivers.items():
        signal.disconnect(receiver, sender=app)


@pytest.fixture
def site(tmp_path: Path, clock: HandClock) -> Iterator[Site]:
    site = Site(clock, tmp_path)
    yield site
    site.middleware.close()


@pytest.fixture
def listener(site: Site) -> Iterator[Listener]:
    with listening(site.app) as listener:
        yield listener


def log_in(user_id: str | int) -> Any:
    return lambda store: store.regenerate(user_id=user_id)


def log_out(store: UserStore) -> None:
    store.destroy()


def test_a_session_starts_with_the_response_that_brings_its_cookie_and_then_goes_on(
    site: Site, listener: Listener
) -> None:
    browser = Browser(site)
    browser.visit()
    assert listener.new() == [("started",)]
    browser.visit(write)
    browser.visit(read)
    assert listener.new() == []


def test_a_session_that_is_not_eager_starts_with_the_first_use(tmp_path: Path, clock: HandClock) -> None:
    site = Site(clock, tmp_path, cookie_eager=False)
    with listening(site.app) as listener:
        browser = Browser(site)
        browser.visit(nothing)
        assert listener.new() == []
        browser.visit(write)
        assert listener.new() == [("started",)]


def test_a_receiver_may_use_the_store_of_the_session_that_starts(site: Site) -> None:
    def greet(app: Flask, **_: Any) -> None:
        assert app is site.app
        g.user_store["name"] = "visitor"

    browser = Browser(site)
    with session_started.connected_to(greet, sender=site.app):
        browser.visit()
    assert browser.visit(read) == "visitor"


def test_a_login_is_told_with_the_user_and_the_visitors_name_stays(site: Site, listener: Listener) -> None:
    browser = Browser(site)
    browser.visit(write)
    browser.visit(log_in(7))
    browser.visit(lambda store: store.regenerate())
    browser.visit(log_out)
    assert listener.new() == [
        ("started",),
        ("regenerated", "7"),
        ("logged in", "7"),
        ("regenerated", None),
        ("ended", "destroyed", ["name"], None),
        ("started",),
    ]
    assert len(set(listener.visitors[:-1])) == 1
    assert listener.visitors[-1] != listener.visitors[0]


def test_a_login_with_the_first_request_keeps_the_id(site: Site, listener: Listener) -> None:
    Browser(site).visit(log_in("ada"))
    assert listener.new() == [("logged in", "ada"), ("started",)]


def test_the_login_of_another_user_ends_the_session_and_starts_one(site: Site, listener: Listener) -> None:
    browser = Browser(site)
    browser.visit(log_in("ada"))
    browser.visit(write)
    listener.new()
    browser.visit(log_in("bob"))
    assert listener.new() == [("ended", "destroyed", ["name"], None), ("logged in", "bob"), ("started",)]
    ada, bob = listener.visitors[0], listener.visitors[-1]
    assert listener.visitors == [ada, ada, ada, bob, bob]


def test_a_double_click_on_log_in_logs_in_twice_and_regenerates_once(site: Site, listener: Listener) -> None:
    browser = Browser(site)
    browser.visit(write)
    second = browser.in_flight()
    listener.new()
    browser.visit(log_in("ada"))
    second.visit(log_in("ada"))
    assert listener.new() == [("regenerated", "ada"), ("logged in", "ada"), ("logged in", "ada")]


def test_a_session_is_ended_once(site: Site, listener: Listener, clock: HandClock) -> None:
    browser = Browser(site)
    browser.visit(write)
    second = browser.in_flight()
    browser.visit(log_out)
    clock.step(1)
    listener.new()
    second.visit(log_out)
    assert [name for name, *_ in listener.new()] == ["started"]


def test_a_session_that_begins_and_ends_in_one_request_is_not_told_of(site: Site, listener: Listener) -> None:
    Browser(site).visit(lambda store: (write(store), store.destroy()))
    assert listener.new() == [("started",)]


def test_the_end_of_all_sessions_of_a_user_is_told_with_the_user(site: Site, listener: Listener) -> None:
    for _ in range(2):
        Browser(site).visit(log_in("ada"))
    listener.new()
    assert site.middleware.end_sessions("ada") == 2
    assert listener.new() == [("ended", "destroyed", [], "ada")] * 2


def test_what_is_rolled_back_is_not_told(site: Site, listener: Listener) -> None:
    browser = Browser(site)
    browser.visit(write)
    listener.new()

    def fail(store: UserStore) -> None:
        with suppress(ZeroDivisionError), store.transaction():
            store.regenerate(user_id="ada")
            raise ZeroDivisionError
        with suppress(ZeroDivisionError), store.transaction():
            store.destroy()
            raise ZeroDivisionError

    browser.visit(fail)
    assert listener.new() == []
    assert browser.visit(read) == "Ada"


def test_receivers_are_called_with_no_lock_held(site: Site) -> None:
    browser = Browser(site)
    browser.visit(write)
    written: list[str] = []

    def write_elsewhere(app: Flask, user_id: str, **_: Any) -> None:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(site.middleware.for_user(user_id).set, "seen", True).result(timeout=30)
        written.append(user_id)

    def in_transaction(store: UserStore) -> None:
        with store.transaction():
            store.regenerate(user_id="ada")
            assert written == []

    with user_logged_in.connected_to(write_elsewhere, sender=site.app):
        browser.visit(in_transaction)
    assert written == ["ada"]


def test_the_end_of_the_lifetime_is_told_by_the_first_request_alone(
    site: Site, listener: Listener, clock: HandClock
) -> None:
    browser = Browser(site)
    browser.visit(write)
    for _ in range(9):
        clock.step(LIFETIME / 10)
        browser.visit(write)
    second = browser.in_flight()
    listener.new()
    clock.step(LIFETIME / 10)
    browser.visit(read)
    clock.step(0.1)
    second.visit(read)
    assert listener.new() == [("ended", "lifetime", ["name"], None), ("started",)]
    assert browser.id == second.id


# A Redis server removes what has expired by itself, and does not say so.
@pytest.mark.parametrize(("url", "is_told"), [(name, name != "redis") for name in URLS], indirect=["url"])
@pytest.mark.parametrize("is_purged", [False, True])
def test_what_expires_is_told_once_with_its_keys_outside_of_any_request(
    url: str, is_purged: bool, is_told: bool, clock: HandClock
) -> None:
    app = Flask("expiring")
    app.secret_key = SECRET
    stores = UserStoreMiddleware(app, url=url, ttl=TTL, clock=clock)
    app.add_url_rule("/", "write", lambda: g.user_store.update(name="Ada", cart=[]) or "ok")
    app.add_url_rule("/other", "other", lambda: "ok")
    with listening(app) as listener:
        stores.for_user("ada", ttl=1)["theme"] = "dark"
        app.test_client().get("/")
        clock.step(TTL)
        contexts: list[bool] = []
        with session_ended.connected_to(lambda _, **__: contexts.append(has_request_context()), sender=app):
            for _ in range(3):
                clock.step(61)
                stores.purge() if is_purged else app.test_client().get("/other").close()
        if is_told:
            assert listener.new() == [("started",), ("ended", "expired", ["name", "cart"], None)]
            assert len(set(listener.visitors)) == 1
            assert contexts == [False]
        else:
            assert (listener.new(), contexts) == ([("started",)], [])
    stores.close()


def test_a_receiver_that_raises_breaks_neither_the_request_nor_maintenance_nor_other_receivers(
    site: Site, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(app: Flask, **_: Any) -> None:
        raise ZeroDivisionError

    for signal in SIGNALS.values():
        signal.connect(fail, sender=site.app)
    with listening(site.app) as listener:
        browser = Browser(site)
        browser.visit(write)
        browser.visit(log_in("ada"))
        browser.visit(log_out)
        Browser(site).visit(write)
        clock.step(TTL)
        assert site.middleware.purge() == 1
        names = [name for name, *_ in listener.new()]
    assert names == ["started", "regenerated", "logged in", "ended", "started", "started", "ended"]
    assert len([record for record in caplog.records if "A receiver of the signal" in record.message]) == len(names)
    for signal in SIGNALS.values():
        signal.disconnect(fail, sender=site.app)


def test_nothing_that_a_receiver_gets_opens_a_session_or_names_its_owner(site: Site, listener: Listener) -> None:
    browser = Browser(site)
    ids = []
    for use in (write, log_in("ada"), log_out):
        browser.visit(use)
        ids.append(browser.id)
    assert len(listener.visitors) == 5
    assert not any(each[:20] in visitor or each[20:] in visitor for each in ids for visitor in listener.visitors)


def test_another_worker_gives_a_visitor_the_same_name_and_another_app_none_of_the_signals(
    site: Site, listener: Listener, tmp_path: Path, clock: HandClock
) -> None:
    browser, other = Browser(site), Site(clock, tmp_path)
    browser.visit(write)
    with listening(other.app) as elsewhere:
        browser.in_flight(other).visit(log_in("ada"))
    assert [name for name, *_ in elsewhere.new()] == ["regenerated", "logged in"]
    assert set(elsewhere.visitors) == set(listener.visitors)
    assert listener.new() == [("started",)]


def test_flask_logins_login_is_told_once() -> None:
    class User(UserMixin):
        id = "ada"

    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://")
    LoginManager(app).user_loader(lambda _: User())
    UserStoreMiddleware(app)
    app.add_url_rule("/in", "in", lambda: str(login_user(User())))
    with listening(app) as listener:
        app.test_client().get("/in")
    assert [each for each in listener.new() if each[0] == "logged in"] == [("logged in", "ada")]
