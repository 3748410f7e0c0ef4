"""Idle and lifetime limits hold when a session is used, not when it is purged, and the clock may step by a day.

Nothing is purged here, and cookies are sent raw, as they were given, whatever a browser was told of their age.

Promises: docs/security.md, "The limits of time"; OWASP ASVS 5.0, 7.3.1 and 7.3.2. A limit that only Max-Age keeps is no
limit for a cookie that was stolen (CWE-613).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from visits import Browser, Site, Use, nothing, read, write

from flask_dash_store import SessionEnded, UserStore
from flask_dash_store.maintenance import Maintenance

DAY = 24 * 60 * 60
HOUR = 60 * 60


@pytest.fixture
def site(clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """One where nothing is purged, and sessions end after an idle hour and after a week."""
    monkeypatch.setattr(Maintenance, "is_due", lambda *_: False)
    return Site(clock, tmp_path, ttl=HOUR, lifetime=7 * DAY)


@pytest.fixture
def browser(site: Site) -> Browser:
    """One whose visitor has stored a name."""
    browser = Browser(site)
    browser.visit(write)
    return browser


def keep_busy(browser: Browser, clock: Any, seconds: float, use: Use = read) -> None:
    """Let time pass with a visitor who is never idle for more than half an hour."""
    end = clock.now + seconds
    while clock.now < end:
        clock.step(min(HOUR / 2, end - clock.now))
        browser.visit(use)


USES: dict[str, Use] = {
    "get": read,
    "in": lambda store: "name" in store,
    "len": len,
    "iter": list,
    "copy": UserStore.copy,
    "values": lambda store: list(store.values()),
    "nbytes": lambda store: store.nbytes,
    "pop": lambda store: store.pop("name", None),
    "setdefault": lambda store: store.setdefault("other", "") or read(store),
    "edit": lambda store: store.edit("names", []).__enter__(),
}


@pytest.mark.parametrize("name", USES)
def test_the_idle_limit_holds_for_a_raw_cookie_that_is_replayed_though_nothing_was_purged(
    site: Site, browser: Browser, clock: Any, name: str
) -> None:
    clock.step(HOUR - 1)
    assert browser.in_flight().visit(lambda store: store.nbytes) > 0
    clock.step(1)
    assert site.database.execute('SELECT COUNT(*) FROM "values"').get == 1
    assert not browser.in_flight().visit(USES[name])


def test_the_lifetime_holds_for_a_raw_cookie_that_is_replayed_though_nothing_was_purged(
    site: Site, browser: Browser, clock: Any
) -> None:
    cookie, old_id = browser.cookie, browser.id
    keep_busy(browser, clock, 7 * DAY - 1)
    assert (browser.visit(read), browser.cookie) == ("Ada", cookie)
    clock.step(1)
    for _ in range(3):
        replay = Browser(site, cookie)
        assert replay.visit(read) is None
        assert replay.id != old_id
        clock.step(DAY)
    assert read(site.middleware.open(old_id)) is None
    with pytest.raises(SessionEnded):
        site.middleware.open(old_id)["name"] = "back"


@pytest.mark.parametrize("use", [read, write, lambda store: store.increment("n"), UserStore.copy])
def test_no_activity_extends_the_lifetime(site: Site, browser: Browser, clock: Any, use: Use) -> None:
    old_id = browser.id
    keep_busy(browser, clock, 8 * DAY, use)
    assert browser.id != old_id
    assert read(site.middleware.open(old_id)) is None


def test_a_new_cookie_at_login_begins_a_lifetime_and_the_old_cookie_gets_none_of_it(
    site: Site, browser: Browser, clock: Any
) -> None:
    keep_busy(browser, clock, 6 * DAY)
    stolen = browser.in_flight()
    browser.visit(UserStore.regenerate)
    keep_busy(browser, clock, 6 * DAY)
    assert browser.visit(read) == "Ada"
    assert stolen.visit(read) is None


def test_polling_that_does_not_count_keeps_no_session_alive_past_the_idle_limit(
    clock: Any, tmp_path: Path, site: Site
) -> None:
    polled = Site(clock, tmp_path, ttl=HOUR, lifetime=7 * DAY, counts_as_use=lambda request: request.path != "/poll")
    browser = Browser(polled)
    browser.visit(write)
    for _ in range(59):
        clock.step(60)
        assert browser.visit(read, "/poll") == "Ada"
    clock.step(60)
    assert browser.visit(read, "/poll") is None


# A clock that steps by a day


def test_after_a_step_back_active_visitors_stay_and_idle_ones_expire_within_the_idle_limit(
    site: Site, browser: Browser, clock: Any
) -> None:
    idle = Browser(site)
    idle.visit(write)
    clock.step(-DAY)
    old_id = browser.id
    assert browser.visit(read) == "Ada"
    assert idle.visit(read) == "Ada"
    keep_busy(browser, clock, HOUR)
    assert browser.visit(read) == "Ada"
    assert browser.id == old_id
    assert idle.visit(read) is None


def test_a_step_back_lets_a_session_live_longer_by_no_more_than_the_step(browser: Browser, clock: Any) -> None:
    old_id, thief = browser.id, browser.in_flight()
    clock.step(-DAY)
    browser.visit(read)
    keep_busy(browser, clock, 7 * DAY - 1)
    assert browser.id == old_id
    clock.step(1)
    browser.visit(nothing)
    assert browser.id != old_id
    clock.step(DAY)
    assert thief.visit(read) is None


def test_a_step_forward_ends_what_would_be_idle_by_then_and_no_session_of_another_visitor(
    site: Site, browser: Browser, clock: Any
) -> None:
    old_id = browser.id
    clock.step(DAY)
    assert browser.visit(read) is None
    assert browser.id == old_id
    browser.visit(write)
    keep_busy(browser, clock, 2 * HOUR)
    assert (browser.visit(read), browser.id) == ("Ada", old_id)


def test_a_step_forward_that_is_taken_back_makes_no_session_immortal(site: Site, browser: Browser, clock: Any) -> None:
    clock.step(DAY)
    browser.visit(write)
    late = Browser(site)
    late.visit(write)
    clock.step(-DAY)
    for visitor in (browser, late):
        assert visitor.visit(read) == "Ada"
    clock.step(HOUR)
    for visitor in (browser, late):
        assert visitor.visit(read) is None


def test_what_was_ended_stays_ended_whichever_way_the_clock_steps(site: Site, browser: Browser, clock: Any) -> None:
    other = Browser(site)
    other.visit(write)
    stolen = browser.in_flight()
    browser.visit(UserStore.destroy)
    for step in (-DAY, 2 * DAY, -DAY):
        clock.step(step)
        thief = stolen.in_flight()
        assert thief.visit(read) is None
        assert read(site.middleware.open(stolen.id)) is None
        with pytest.raises(SessionEnded):
            site.middleware.open(stolen.id)["name"] = "back"
