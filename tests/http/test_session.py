"""A session begins with a cookie, lives while it is used, and ends with its lifetime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dash import Dash, html
from flask import Flask, g
from visits import LIFETIME, SECRET, SITES, TTL, Browser, Site, Use, nothing, read, write

from flask_dash_store import OutsideCookiePath, UserStore, UserStoreMiddleware

SUCCESSION = 60
YEAR = 365 * 86400


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, clock: Any, tmp_path: Path) -> Site:
    return request.param(clock, tmp_path)  # type: ignore[no-any-return]


@pytest.fixture
def browser(site: Site) -> Browser:
    """One whose visitor has stored a name."""
    browser = Browser(site)
    browser.visit(write)
    return browser


# The beginning


def test_the_cookie_comes_with_the_first_response_though_the_store_is_not_touched_and_never_again(site: Site) -> None:
    browser = Browser(site)
    browser.visit(nothing)
    assert browser.cookies_received == 1
    for use in (nothing, read, write, read, len, UserStore.clear):
        browser.visit(use)
    assert browser.cookies_received == 1


def test_no_row_exists_before_the_first_write(site: Site) -> None:
    browser = Browser(site)
    for use in (nothing, read, len, list, UserStore.copy, UserStore.clear, lambda store: store.pop("name", None)):
        browser.visit(use)
    assert site.stored_expiries() == []
    browser.visit(write)
    assert len(site.stored_expiries()) == 1


def test_is_new_is_said_of_the_first_request_alone(site: Site) -> None:
    browser = Browser(site)
    assert [browser.visit(lambda store: store.is_new) for _ in range(3)] == [True, False, False]


# Sliding expiry


def test_sliding_costs_no_cookie_and_at_most_one_write_in_a_twentieth_of_the_ttl(
    site: Site, browser: Browser, clock: Any
) -> None:
    def commits_seen() -> int:
        return site.database.pragma("data_version")

    seen, writes, step = commits_seen(), 0, 7
    for _ in range(int(4 * TTL / step)):
        clock.step(step)
        assert browser.visit(read) == "Ada"
        writes += seen != (seen := commits_seen())
        assert TTL - TTL / 20 <= site.stored_expiries()[0] - clock.now <= TTL
    assert writes <= 4 * 20
    assert browser.cookies_received == 1


READS: list[Use] = [read, lambda store: "name" in store, list, dict, lambda store: store == {}, write]
QUESTIONS: list[Use] = [
    nothing,
    len,
    lambda store: store.expires_at,
    lambda store: store.nbytes,
    lambda store: store.session_id,
]


@pytest.mark.parametrize(("use", "is_use"), [(use, True) for use in READS] + [(use, False) for use in QUESTIONS])
def test_reads_and_writes_move_the_expiry_and_questions_about_the_session_do_not(
    browser: Browser, clock: Any, use: Use, is_use: bool
) -> None:
    clock.step(TTL / 2)
    browser.visit(use)
    clock.step(TTL / 2)
    assert browser.visit(read) == ("Ada" if is_use else None)


def test_expiry_empties_the_store_and_keeps_its_id(site: Site, browser: Browser, clock: Any) -> None:
    id_before = browser.id
    clock.step(TTL - 1)
    assert browser.visit(read) == "Ada"
    clock.step(TTL)
    assert browser.visit(dict) == {}
    browser.visit(lambda store: store.update(city="Paris"))
    assert browser.visit(dict) == {"city": "Paris"}
    assert (browser.id, browser.cookies_received) == (id_before, 1)


@pytest.mark.parametrize("use", [read, write])
def test_requests_that_do_not_count_as_use_keep_no_session_alive(clock: Any, tmp_path: Path, use: Use) -> None:
    site = Site(clock, tmp_path, counts_as_use=lambda request: not request.path.startswith("/poll"))
    browser = Browser(site)
    browser.visit(write, "/poll")  # The first values have an expiry all the same.
    browser.visit(write)
    for _ in range(9):
        clock.step(TTL / 10)
        assert browser.visit(read, "/poll") == "Ada"
        browser.visit(use, "/poll")
    clock.step(TTL / 10)
    assert browser.visit(read, "/poll") is None


# The end of the lifetime


def age(browser: Browser, clock: Any, seconds: float) -> None:
    """Let time pass with a visitor who is never idle."""
    end = clock.now + seconds
    while clock.now < end:
        clock.step(min(TTL / 2, end - clock.now))
        browser.visit(write)


def test_activity_does_not_extend_the_lifetime(site: Site, browser: Browser, clock: Any) -> None:
    old_id, ends_at = browser.id, clock.now + LIFETIME
    age(browser, clock, LIFETIME - 1)
    assert (browser.id, browser.cookies_received) == (old_id, 1)
    assert site.stored_expiries() == [ends_at]
    clock.step(1)
    assert dict(site.middleware.open(old_id)) == {}
    assert browser.visit(dict) == {}
    assert (browser.id != old_id, browser.cookies_received) == (True, 2)


def test_a_job_that_has_opened_the_session_does_not_extend_its_lifetime_either(
    site: Site, browser: Browser, clock: Any
) -> None:
    for _ in range(int(LIFETIME / TTL * 2)):
        clock.step(TTL / 2)
        read(site.middleware.open(browser.id))
    assert read(site.middleware.open(browser.id)) is None


def test_parallel_requests_agree_on_the_successor_in_all_workers(
    site: Site, browser: Browser, clock: Any, tmp_path: Path
) -> None:
    clock.step(LIFETIME)
    parallel = [browser.in_flight(worker) for worker in (site, Site(clock, tmp_path)) * 3]
    for n, late in enumerate(parallel):
        late.visit(lambda store, n=n: store.set(f"key{n}", n))
        clock.step((SUCCESSION - 1) / len(parallel))
    assert len({late.id for late in parallel} - {browser.id}) == 1
    assert parallel[0].visit(dict) == {f"key{n}": n for n in range(6)}
    assert [late.cookies_received for late in parallel] == [1] * 6


def test_a_client_that_replays_the_old_cookie_much_later_is_new(site: Site, browser: Browser, clock: Any) -> None:
    old = browser.cookie
    clock.step(LIFETIME)
    browser.visit(write)
    ids = [browser.id]
    for wait in (SUCCESSION + 1, LIFETIME, LIFETIME + SUCCESSION + 1, 10 * LIFETIME):
        clock.step(wait)
        site.middleware.purge()
        thief = Browser(site, old)
        assert thief.visit(dict) == {}
        thief.visit(write)
        ids.append(thief.id)
    assert len(set(ids)) == 5


# Clocks that step


def test_after_a_step_back_of_the_clock_active_visitors_stay_and_idle_ones_expire(browser: Browser, clock: Any) -> None:
    old_id = browser.id
    clock.step(-YEAR)
    for _ in range(3):
        assert browser.visit(read) == "Ada"
        clock.step(TTL - 1)
    clock.step(1)
    assert browser.visit(read) is None
    assert browser.id == old_id


def test_after_a_step_back_of_the_clock_a_session_that_is_not_used_expires(
    site: Site, browser: Browser, clock: Any
) -> None:
    clock.step(-YEAR)
    visitor = Browser(site)
    for _ in range(10):  # Others come by, so that there is maintenance.
        clock.step(TTL / 2)
        visitor.visit(write)
    site.middleware.purge()
    assert browser.in_flight().visit(read) is None


def test_after_a_step_back_of_the_clock_a_busy_session_still_ends(browser: Browser, clock: Any) -> None:
    old_id = browser.id
    clock.step(-YEAR)
    age(browser, clock, 2 * LIFETIME)
    assert browser.id != old_id


@pytest.mark.parametrize("use", [nothing, read])
def test_after_a_step_back_of_the_clock_a_late_response_overwrites_no_newer_cookie(
    browser: Browser, clock: Any, use: Use
) -> None:
    clock.step(-YEAR)
    late = browser.in_flight()
    browser.visit(UserStore.regenerate)
    late.visit(use)
    assert late.cookies_received == 0


@pytest.mark.parametrize("expiry", [None, "soon", b"soon", "", 0])
def test_a_missing_or_unreadable_expiry_means_expired(site: Site, browser: Browser, expiry: Any) -> None:
    site.database.execute('UPDATE "sessions" SET value = ?', (expiry,))
    assert browser.visit(dict) == {}
    browser.visit(lambda store: store.update(city="Paris"))
    assert browser.visit(dict) == {"city": "Paris"}


def test_values_without_a_session_have_expired(site: Site, browser: Browser) -> None:
    site.database.execute('DELETE FROM "sessions"')
    assert browser.visit(dict) == {}
    browser.visit(lambda store: store.update(city="Paris"))
    assert browser.visit(dict) == {"city": "Paris"}


# Requests that come without the cookie though the browser has one


@pytest.mark.parametrize(
    ("samesite", "method", "is_given_one"),
    [("Lax", "POST", False), ("Lax", "GET", True), ("Strict", "GET", False), ("None", "POST", True)],
)
def test_a_request_whose_cookie_samesite_withheld_is_given_none_unless_it_has_written(
    clock: Any, tmp_path: Path, samesite: str, method: str, is_given_one: bool
) -> None:
    site = Site(clock, tmp_path, cookie_samesite=samesite)
    for use, is_given in ((nothing, is_given_one), (read, is_given_one), (write, True)):
        browser = Browser(site)
        browser.visit(use, method=method, HTTP_SEC_FETCH_SITE="cross-site")
        assert browser.cookies_received == is_given
    for fetch_site in ("same-origin", "same-site", "none"):
        browser = Browser(site)
        browser.visit(method=method, HTTP_SEC_FETCH_SITE=fetch_site)
        assert browser.cookies_received == 1


@pytest.mark.parametrize("use", [UserStore.destroy, UserStore.regenerate], ids=["destroy", "regenerate"])
def test_a_cross_site_post_whose_cookie_was_withheld_replaces_no_cookie_and_ends_no_session(
    site: Site, browser: Browser, use: Use
) -> None:
    withheld = Browser(site)
    withheld.visit(use, method="POST", HTTP_SEC_FETCH_SITE="cross-site")
    assert withheld.cookies_received == 0
    assert browser.visit(read) == "Ada"


def test_a_view_outside_the_cookies_path_does_not_replace_the_visitors_cookie() -> None:
    server = Flask("site")
    server.config.update(SECRET_KEY=SECRET, USER_STORE_URL="sqlite://:memory:")
    app = Dash("board", server=server, url_base_pathname="/board/")
    app.layout = html.Div()
    UserStoreMiddleware(app)
    server.add_url_rule("/", "home", lambda: "home")
    server.add_url_rule("/board/n", "count", lambda: str(g.user_store.increment("n")))
    client = server.test_client()
    assert [client.get(path).text for path in ("/board/n", "/", "/board/n")] == ["1", "home", "2"]


def test_a_view_outside_the_cookies_path_that_writes_gets_an_error_instead_of_losing_it() -> None:
    server = Flask("site")
    server.config.update(SECRET_KEY=SECRET, USER_STORE_URL="sqlite://:memory:", TESTING=True)
    app = Dash("board", server=server, url_base_pathname="/board/")
    app.layout = html.Div()
    UserStoreMiddleware(app)
    server.add_url_rule("/", "home", lambda: str(g.user_store.increment("n")))
    server.add_url_rule("/job", "job", lambda: g.user_store.job_handle())
    for path in ("/", "/job"):
        with pytest.raises(OutsideCookiePath, match="USER_STORE_COOKIE_PATH"):
            server.test_client().get(path)
