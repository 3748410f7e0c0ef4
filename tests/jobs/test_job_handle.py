"""A job's handle opens the visitor's values in another process, follows a login, and opens nothing over HTTP.

Promises: docs/security.md, "Jobs".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from backends import Child
from clocks import HandClock
from flask import Flask, g, request
from visits import LIFETIME, SECRET, TTL, Browser, Site, answer_of, nothing, read, write

from flask_dash_store import (
    InvalidKey,
    NotASession,
    OutsideRequest,
    SessionEnded,
    UserStore,
    UserStoreMiddleware,
)


class App:
    """An app on one of the backends, whose view does what a test hands it."""

    def __init__(
        self, url: str, clock: Callable[[], float], secrets: tuple[str, ...] = (SECRET,), **options: Any
    ) -> None:
        self.app = Flask("shop")
        self.app.config.update(SECRET_KEY=secrets[0], SECRET_KEY_FALLBACKS=secrets[1:], TESTING=True)
        self.middleware = UserStoreMiddleware(self.app, url=url, ttl=TTL, lifetime=LIFETIME, clock=clock, **options)
        self.app.add_url_rule("/<path:path>", "any", self._view, methods=["GET", "POST"])

    def answer(self, environ: dict[str, Any]) -> tuple[int, list[str]]:
        return answer_of(self.app, environ)

    def _view(self, path: str) -> str:
        request.environ["test.result"].append(request.environ["test.use"](g.user_store))
        return "ok"


@pytest.fixture
def app(url: str, clock: HandClock) -> Iterator[App]:
    app = App(url, clock)
    yield app
    app.middleware.close()


@pytest.fixture
def browser(app: App) -> Browser:
    return Browser(app)


@pytest.fixture
def site(clock: HandClock, tmp_path: Path) -> Site:
    """An app whose database is at hand."""
    return Site(clock, tmp_path)


def begin(browser: Browser) -> str:
    return browser.visit(UserStore.job_handle)


def work_elsewhere(url: str, now: float, handle: str) -> dict[str, Any]:
    """A job of another process, which returns what it found."""
    stores = App(url, lambda: now).middleware
    job = stores.open(handle)
    found = job.copy()
    job["report"] = "ready"
    stores.close()
    return found


# What it opens


def test_a_job_in_another_process_reads_and_writes_the_visitors_values(app: App, browser: Browser, url, clock) -> None:
    browser.visit(write)
    assert Child("spawn", work_elsewhere, url, clock(), begin(browser)).outcome() == {"name": "Ada"}
    assert browser.visit(UserStore.copy) == {"name": "Ada", "report": "ready"}


def test_a_job_that_writes_before_its_visitor_has_written_writes_to_their_store(app: App, browser: Browser) -> None:
    app.middleware.open(begin(browser))["report"] = "ready"
    assert browser.cookies_received == 1
    assert browser.visit(UserStore.copy) == {"report": "ready"}


def test_a_job_that_writes_after_all_has_expired_writes_to_the_visitors_store(
    app: App, browser: Browser, clock: HandClock
) -> None:
    browser.visit(write)
    job = app.middleware.open(begin(browser))
    clock.step(TTL + 1)
    app.middleware.purge()
    assert job.copy() == {}
    job["report"] = "ready"
    assert browser.visit(UserStore.copy) == {"report": "ready"}


@pytest.mark.parametrize("has_written", [False, True])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_job_goes_on_after_a_login_however_often(app: App, browser: Browser, has_written, is_open) -> None:
    browser.visit(write if has_written else nothing)
    handle = begin(browser)
    job = app.middleware.open(handle)
    for n in range(3):
        browser.visit(lambda store: store.regenerate(user_id="ada"))
        browser.visit(lambda store, n=n: store.update(before=n))
        each = job if is_open else app.middleware.open(handle)
        assert each["before"] == n
        each["after"] = n
        assert browser.visit(lambda store: store["after"]) == n


def test_a_job_goes_on_when_the_login_comes_between_two_of_its_calls(app: App, browser: Browser) -> None:
    browser.visit(lambda store: store.update(count=1))
    operations: list[Callable[[UserStore], Any]] = [
        lambda job: job["count"],
        lambda job: "count" in job,
        len,
        list,
        UserStore.copy,
        lambda job: job.nbytes,
        lambda job: job.update(a=1, b=2),
        lambda job: job.increment("count"),
        lambda job: job.pop("a"),
        lambda job: job.set("b", 3, ttl=60),
        lambda job: job.expire("b", None),
        UserStore.job_handle,
        UserStore.clear,
    ]
    job = app.middleware.open(begin(browser))
    for operation in operations:
        browser.visit(UserStore.regenerate)
        operation(job)
        with job.transaction():
            job["last"] = repr(operation)
        assert browser.visit(lambda store: store["last"]) == repr(operation)
    assert browser.visit(UserStore.copy) == {"last": repr(UserStore.clear)}


def test_threads_that_share_a_jobs_store_all_go_on_after_logins(app: App, browser: Browser) -> None:
    browser.visit(write)
    job = app.middleware.open(begin(browser))

    def count(_: int) -> None:
        for _ in range(20):
            job.increment("count")

    with ThreadPoolExecutor(4) as threads:
        counting = [threads.submit(count, n) for n in range(4)]
        for _ in range(10):
            browser.visit(UserStore.regenerate)
        for each in counting:
            each.result()
    assert browser.visit(lambda store: store["count"]) == 80


def test_a_job_is_rolled_back_with_its_transaction_and_goes_on(app: App, browser: Browser) -> None:
    browser.visit(write)
    job = app.middleware.open(begin(browser))
    browser.visit(UserStore.regenerate)
    with pytest.raises(ZeroDivisionError), job.transaction():
        job["name"] = "rolled back"
        raise ZeroDivisionError
    assert (job["name"], browser.visit(read)) == ("Ada", "Ada")


# The end


def log_out(browser: Browser, clock: HandClock) -> None:
    browser.visit(UserStore.destroy)


def log_in_as_another(browser: Browser, clock: HandClock) -> None:
    browser.visit(lambda store: store.regenerate(user_id="eve"))


def outlive(browser: Browser, clock: HandClock) -> None:
    clock.step(LIFETIME)


def outlive_after_a_login(browser: Browser, clock: HandClock) -> None:
    clock.step(LIFETIME / 2)
    browser.visit(lambda store: store.regenerate(user_id="ada"))
    clock.step(LIFETIME / 2)


@pytest.mark.parametrize("is_renewed", [False, True])
@pytest.mark.parametrize("end", [log_out, log_in_as_another, outlive, outlive_after_a_login])
def test_after_the_end_of_the_session_a_job_finds_nothing_and_its_writes_raise(
    app: App, browser: Browser, clock: HandClock, end: Callable[[Browser, HandClock], None], is_renewed: bool
) -> None:
    browser.visit(write)
    browser.visit(lambda store: store.regenerate(user_id="ada"))
    handle = begin(browser)
    job = app.middleware.open(handle)
    if is_renewed:
        browser.visit(UserStore.regenerate)
    end(browser, clock)
    browser.visit(lambda store: store.update(name="another"))
    for each in (job, app.middleware.open(handle)):
        assert (each.copy(), each.get("name"), "name" in each, len(each)) == ({}, None, False, 0)
        for late in (write, UserStore.clear, UserStore.job_handle, lambda store: store.increment("n")):
            with pytest.raises(SessionEnded):
                late(each)
    assert browser.visit(UserStore.copy) == {"name": "another"}


def test_a_job_brings_no_session_back_once_its_end_may_be_forgotten(
    app: App, browser: Browser, clock: HandClock
) -> None:
    browser.visit(write)
    job = app.middleware.open(begin(browser))
    browser.visit(UserStore.destroy)
    clock.step(LIFETIME + 1)
    app.middleware.purge()
    with pytest.raises(SessionEnded):
        job["name"] = "back"
    assert app.middleware.purge() == 0


# What it is not


def test_what_a_job_does_is_no_use_of_the_session(site: Site, clock: HandClock) -> None:
    browser = Browser(site)
    browser.visit(write)
    job = site.middleware.open(begin(browser))
    before = site.stored_expiries()
    clock.step(TTL / 2)
    job["report"] = job["name"]
    job.increment("count")
    assert site.stored_expiries() == before


@pytest.mark.parametrize("call", [UserStore.destroy, UserStore.regenerate, lambda job: job.regenerate("ada")])
def test_a_job_ends_no_session_and_gives_none_another_id(app: App, browser: Browser, call) -> None:
    browser.visit(write)
    job = app.middleware.open(begin(browser))
    with pytest.raises(OutsideRequest, match="in a view"):
        call(job)
    assert job.session_id is None
    with pytest.raises(NotASession):
        app.middleware.end_sessions("ada", but=job)
    assert browser.visit(read) == "Ada"


def test_a_handle_is_a_short_text_that_needs_no_quoting_in_a_url(app: App, browser: Browser) -> None:
    handle = begin(browser)
    assert re.fullmatch(r"[A-Za-z0-9._-]{100,160}", handle)


def test_a_handle_opens_nothing_over_http_whichever_way_it_is_sent_as_a_cookie(app: App, browser: Browser) -> None:
    browser.visit(write)
    handle = begin(browser)
    assert browser.id not in handle
    assert browser.id[20:] not in handle
    name, session, ends_at, signature = handle.split(".")
    _, scope, issued, _ = browser.cookie.split(".")
    for forged in (
        handle,
        f"{name}{session}A.{scope}.{issued}.{signature}",
        f"{name}{session}A.{scope}.{ends_at}.{signature}{signature[:21]}",
        f"{name}.{session}.{ends_at}.{browser.cookie.split('.')[3]}",
    ):
        assert Browser(app, f"user_store={forged}").visit(read) is None


def test_the_store_of_a_user_id_has_no_handle(app: App) -> None:
    with pytest.raises(NotASession, match="for_user"):
        app.middleware.for_user("ada").job_handle()


# Who may begin one


def test_an_id_that_was_planted_before_the_login_begins_no_job_after_it(
    app: App, browser: Browser, clock: HandClock
) -> None:
    browser.visit(write)
    thief = browser.in_flight()
    browser.visit(lambda store: store.regenerate(user_id="ada"))
    assert (begin(thief), thief.status) == (None, 409)
    with pytest.raises(SessionEnded):
        app.middleware.open(thief.id).job_handle()
    clock.step(6)
    handle = begin(thief)  # Of a session of its own, as any late request has.
    app.middleware.open(handle)["name"] = "Eve"
    assert (browser.visit(read), thief.visit(read)) == ("Ada", "Eve")


def test_a_session_that_was_destroyed_begins_no_job(app: App, browser: Browser) -> None:
    def destroy_and_begin(store: UserStore) -> str:
        store.destroy()
        return store.job_handle()

    assert (browser.visit(destroy_and_begin), browser.status) == (None, 409)


def test_a_new_visitors_job_that_was_begun_before_the_logout_in_one_request_writes_nothing(
    app: App, browser: Browser
) -> None:
    def begin_and_destroy(store: UserStore) -> str:
        handle = store.job_handle()
        store.destroy()
        return handle

    with pytest.raises(SessionEnded):
        app.middleware.open(browser.visit(begin_and_destroy))["report"] = "ready"


# Whose handles open


def test_no_changed_handle_opens_anything(app: App, browser: Browser) -> None:
    browser.visit(write)
    handle = begin(browser)
    other = begin(Browser(app))
    forms = [handle[:n] + ("A" if handle[n] != "A" else "B") + handle[n + 1 :] for n in range(len(handle))]
    parts, others = handle.split("."), other.split(".")
    forms += [".".join([*parts[:n], others[n], *parts[n + 1 :]]) for n in range(4) if parts[n] != others[n]]
    forms += [handle + "=", handle + "\n", f" {handle}", handle.upper(), handle.rpartition(".")[0], "..", "." * 64]
    for form in forms:
        with pytest.raises(InvalidKey) as caught:
            app.middleware.open(form)
        assert not any(part in str(caught.value) for part in (parts[0], parts[1], parts[3]))


def test_a_former_key_opens_a_handle_while_it_is_a_fallback(app: App, browser: Browser, url: str, clock) -> None:
    browser.visit(write)
    handle = begin(browser)
    new = "another key, of the app's next months"
    assert App(url, clock, (new, SECRET)).middleware.open(handle)["name"] == "Ada"
    with pytest.raises(InvalidKey, match="SECRET_KEY_FALLBACKS"):
        App(url, clock, (new,)).middleware.open(handle)


def test_an_app_opens_no_handle_of_its_sibling_with_the_same_key(app: App, browser: Browser, url: str, clock) -> None:
    with pytest.raises(InvalidKey, match="cookie"):
        App(url, clock, cookie_name="sibling").middleware.open(begin(browser))
