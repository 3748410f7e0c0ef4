"""visitor() names a visitor: stable through logins, without a secret, and without a use of the store."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from clocks import HandClock
from flask import Flask, make_response
from visits import LIFETIME, SECRET, TTL, Browser, Site, write

from flask_dash_store import OutsideRequest, UserStore, UserStoreMiddleware, visitor


def name(store: UserStore) -> str:
    return visitor()


@pytest.fixture
def site(clock: HandClock, tmp_path: Path) -> Site:
    return Site(clock, tmp_path)


@pytest.fixture
def browser(site: Site) -> Browser:
    browser = Browser(site)
    browser.visit()
    return browser


def test_a_visitor_has_one_name_in_all_workers_before_and_after_logins(
    site: Site, browser: Browser, clock: HandClock, tmp_path: Path
) -> None:
    names = {browser.visit(name)}
    for _ in range(2):
        browser.visit(lambda store: store.regenerate(user_id="ada"))
        names |= {browser.visit(name), browser.in_flight(Site(clock, tmp_path)).visit(name)}
    clock.step(TTL + 1)  # The values have expired, not the session.
    names |= {browser.visit(name)}
    assert len(names) == 1


def test_no_two_visitors_have_one_name_and_none_says_whose_it_is(site: Site) -> None:
    browsers = [Browser(site) for _ in range(20)]
    names = []
    for browser in browsers:
        browser.visit()
        names.append(browser.visit(name))
        assert re.fullmatch(r"[A-Za-z0-9_-]{22}", names[-1])
        assert not any(browser.id[n : n + 6] in names[-1] for n in range(58))
    assert len(set(names)) == 20


def log_out(browser: Browser, clock: HandClock) -> None:
    browser.visit(UserStore.destroy)


def log_in_as_another(browser: Browser, clock: HandClock) -> None:
    for user in ("ada", "eve"):
        browser.visit(lambda store, user=user: store.regenerate(user_id=user))


def outlive(browser: Browser, clock: HandClock) -> None:
    clock.step(LIFETIME + 1)
    browser.visit()


@pytest.mark.parametrize("end", [log_out, log_in_as_another, outlive])
def test_who_comes_after_the_end_of_a_session_has_another_name(browser: Browser, clock: HandClock, end) -> None:
    before = browser.visit(name)
    end(browser, clock)
    assert browser.visit(name) != before


def test_another_secret_key_gives_another_name(site: Site, browser: Browser, clock: HandClock, tmp_path: Path) -> None:
    rotated = Site(clock, tmp_path, ("another key, of the app's next months", SECRET))
    assert browser.in_flight(rotated).visit(name) != browser.visit(name)


def test_to_ask_for_the_name_keeps_no_session_alive(site: Site, browser: Browser, clock: HandClock) -> None:
    browser.visit(write)
    before = site.stored_expiries()
    clock.step(TTL / 2)
    browser.visit(name)
    assert site.stored_expiries() == before


def test_to_ask_for_the_name_needs_no_storage(site: Site, browser: Browser) -> None:
    site.middleware.close()
    assert browser.visit(name)


def test_a_visitor_without_a_cookie_keeps_their_first_name_if_the_response_brings_the_cookie(
    clock: HandClock, tmp_path: Path
) -> None:
    eager, first_use = Browser(Site(clock, tmp_path)), Browser(Site(clock, tmp_path, cookie_eager=False))
    assert eager.visit(name) == eager.visit(name)
    assert first_use.visit(name) != first_use.visit(name)
    assert first_use.cookies_received == 0

    def name_and_write(store: UserStore) -> str:
        store["key"] = 1
        return visitor()

    assert first_use.visit(name_and_write) == first_use.visit(name)


def test_without_a_visitor_it_is_an_error(site: Site) -> None:
    with pytest.raises(OutsideRequest):
        visitor()
    with site.app.app_context(), pytest.raises(OutsideRequest):
        visitor()


def test_a_response_that_may_depend_on_the_name_varies_by_cookie_unless_it_is_public() -> None:
    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", USER_STORE_COOKIE_EAGER=True)
    UserStoreMiddleware(app)
    app.after_request(lambda response: response.headers.set("X-Log", visitor()) or response)
    app.add_url_rule("/page", "page", lambda: "page")
    app.add_url_rule("/asset", "asset", lambda: make_response("asset", {"Cache-Control": "public, max-age=60"}))
    client = app.test_client()
    client.get("/page")
    page, asset = client.get("/page"), client.get("/asset")
    assert (page.headers.get("Vary"), asset.headers.get("Vary")) == ("Cookie", None)
