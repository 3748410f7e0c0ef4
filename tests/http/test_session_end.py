"""regenerate() and destroy() end a session at once and for good: nothing that is late brings it back.

Promises: docs/security.md, "The end of a session". rack-session brought ended sessions back (CVE-2025-46336); an id
that a login does not change lets in the attacker who planted it (session fixation, CWE-384).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask import g, stream_with_context
from visits import LIFETIME, SITES, TTL, Browser, Site, Use, nothing, read, write

from flask_dash_store import SessionEnded, UserStore, UserStoreError

GRACE = 5
YEAR = 365 * 86400

ENDS: list[Use] = [UserStore.regenerate, UserStore.destroy]


def edit(store: UserStore) -> None:
    with store.edit("list", []) as value:
        value.append(1)


def write_in_transaction(store: UserStore) -> None:
    with store.transaction():
        write(store)


WRITES: list[Use] = [
    write,
    edit,
    write_in_transaction,
    lambda store: store.set("name", 1, ttl=5),
    lambda store: store.expire("name", 5),
    lambda store: store.__delitem__("name"),
    lambda store: store.setdefault("name", 1),
    lambda store: store.update(name=1),
    lambda store: store.__ior__({"name": 1}),
    lambda store: store.increment("n"),
    UserStore.clear,
]


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, clock: Any, tmp_path: Path) -> Site:
    return request.param(clock, tmp_path)  # type: ignore[no-any-return]


@pytest.fixture
def browser(site: Site) -> Browser:
    """One whose visitor has stored a name."""
    browser = Browser(site)
    browser.visit(write)
    return browser


def raises_session_ended(store: UserStore, use: Use) -> bool:
    with pytest.raises(SessionEnded, match="next request"):
        use(store)
    return True


# What they do


def test_regenerate_takes_along_all_values_their_order_and_their_ttls(browser: Browser, clock: Any) -> None:
    browser.visit(lambda store: (store.set("code", 1, ttl=100), store.update(a=[1], b="2")))
    before = browser.visit(lambda store: list(store.items()))
    old_id = browser.id

    def regenerate(store: UserStore) -> Any:
        store.regenerate()
        return list(store.items()), store.session_id

    assert browser.visit(regenerate) == (before, browser.id)
    assert (browser.id != old_id, browser.cookies_received) == (True, 2)
    assert browser.visit(lambda store: list(store.items())) == before
    clock.step(100)
    assert list(browser.visit(dict)) == ["name", "a", "b"]


@pytest.mark.parametrize("use", [nothing, write])
def test_regenerate_works_for_a_new_visitor_before_and_after_the_first_write(site: Site, use: Use) -> None:
    browser = Browser(site)
    browser.visit(lambda store: (use(store), store.regenerate(), store.update(city="Paris")))
    assert browser.cookies_received == 1
    assert browser.visit(lambda store: store["city"]) == "Paris"


def test_after_regenerate_the_lifetime_begins_again(browser: Browser, clock: Any) -> None:
    for use in (lambda store: (store.regenerate(), write(store)), read):
        for _ in range(int(LIFETIME / TTL * 2) - 1):
            clock.step(TTL / 2)
            assert browser.visit(read) == "Ada"
        clock.step(TTL / 2 - 1)
        browser.visit(use)
    assert (browser.visit(read), browser.cookies_received) == ("Ada", 2)


def test_destroy_empties_the_store_and_the_browser_goes_on_with_a_fresh_session(browser: Browser) -> None:
    old_id = browser.id

    def destroy(store: UserStore) -> dict[str, Any]:
        store.destroy()
        assert raises_session_ended(store, write)
        return dict(store)

    assert browser.visit(destroy) == {}
    assert (browser.id != old_id, browser.cookies_received) == (True, 2)
    assert browser.visit(lambda store: (dict(store), store.is_new)) == ({}, False)
    browser.visit(write)
    assert (browser.visit(read), browser.cookies_received) == ("Ada", 2)


def test_destroy_leaves_no_value_in_the_table(site: Site, browser: Browser) -> None:
    browser.visit(UserStore.destroy)
    assert site.database.execute('SELECT COUNT(*) FROM "values"').get == 0


def test_destroy_twice_in_one_request_is_as_good_as_once(browser: Browser, clock: Any) -> None:
    browser.visit(lambda store: (store.destroy(), clock.step(0.01), store.destroy()))
    assert browser.cookies_received == 2
    browser.visit(write)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_new", [False, True])
def test_an_end_that_a_transaction_has_rolled_back_reaches_no_browser(
    site: Site, browser: Browser, end: Use, is_new: bool
) -> None:
    def roll_back(store: UserStore) -> str | None:
        with suppress(ZeroDivisionError), store.transaction():
            end(store)
            raise ZeroDivisionError
        write(store)
        return store.session_id

    if is_new:
        browser = Browser(site)
    assert browser.visit(roll_back) == browser.id
    assert (browser.visit(read), browser.cookies_received) == ("Ada", 1)


# What comes late


@pytest.mark.parametrize("end", ENDS)
def test_the_old_id_is_dead_at_once_in_all_workers(
    site: Site, browser: Browser, clock: Any, tmp_path: Path, end: Use
) -> None:
    for worker in (site, Site(clock, tmp_path)):
        late = browser.in_flight(worker)

        def use_late(store: UserStore, late: Browser = late) -> None:
            end(store)
            assert late.visit(dict) == {}
            assert late.visit(lambda store: raises_session_ended(store, write))

        browser.visit(use_late)
        browser.visit(write)
        assert (late.visit(dict), late.cookies_received) == ({}, 0)
        assert dict(worker.middleware.open(late.id)) == {}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("use", WRITES)
def test_in_a_request_that_another_has_overtaken_every_write_raises_and_no_cookie_is_set(
    site: Site, browser: Browser, end: Use, use: Use
) -> None:
    late = browser.in_flight()

    def overtaken(store: UserStore) -> bool:
        assert read(store) == "Ada"
        browser.visit(end)
        return raises_session_ended(store, use)

    assert late.visit(overtaken)
    assert late.cookies_received == 0
    assert browser.visit(read) == ("Ada" if end is UserStore.regenerate else None)
    stored = site.database.execute('SELECT key FROM "values" WHERE key NOT LIKE ?', (f"%{browser.id}%",)).fetchall()
    assert len(stored) == (end is UserStore.regenerate)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("use", [nothing, read])
def test_a_late_request_that_writes_nothing_is_answered_and_overwrites_no_newer_cookie(
    browser: Browser, clock: Any, end: Use, use: Use
) -> None:
    late = browser.in_flight()
    browser.visit(end)
    clock.step(0.001)
    late.visit(use)
    assert late.cookies_received == 0


@pytest.mark.parametrize("end", ENDS)
def test_a_late_request_overwrites_no_newer_cookie_at_the_end_of_the_lifetime_either(
    browser: Browser, clock: Any, end: Use
) -> None:
    for _ in range(int(LIFETIME / TTL * 2) - 1):
        clock.step(TTL / 2)
        browser.visit(write)
    clock.step(TTL / 2 - 1)
    late = browser.in_flight()
    browser.visit(end)
    clock.step(2)
    late.visit(read)
    assert late.cookies_received == 0


@pytest.mark.parametrize("end", ENDS)
def test_a_browser_that_missed_its_new_cookie_is_given_one_after_a_while(
    browser: Browser, clock: Any, end: Use
) -> None:
    missed = browser.in_flight()
    browser.visit(end)
    clock.step(GRACE)
    missed.visit(read)
    assert missed.cookies_received == 0
    clock.step(1)
    assert missed.visit(dict) == {}
    assert missed.cookies_received == 1
    missed.visit(write)
    assert missed.visit(read) == "Ada"
    assert missed.id != browser.id


@pytest.mark.parametrize("end", ENDS)
def test_what_ended_while_the_clock_was_ahead_is_healed_once_it_is_right(
    browser: Browser, clock: Any, end: Use
) -> None:
    missed = browser.in_flight()
    clock.step(TTL / 2)
    browser.visit(end)
    clock.step(-TTL / 4)
    missed.visit(read)
    assert missed.cookies_received == 1


@pytest.mark.parametrize("end", ENDS)
def test_purging_does_not_revive_an_ended_session_whose_cookie_could_still_come(
    site: Site, browser: Browser, clock: Any, end: Use
) -> None:
    old_id = browser.id
    browser.visit(end)
    clock.step(LIFETIME - 1)
    site.middleware.purge()
    assert raises_session_ended(site.middleware.open(old_id), write)


def test_regenerate_loses_no_data_where_the_browser_can_no_longer_be_sent_a_cookie(clock: Any, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)

    @site.app.get("/stream")
    @stream_with_context
    def stream() -> Iterator[str]:
        yield "The headers are on their way."
        with suppress(UserStoreError):
            g.user_store.regenerate()

    browser = Browser(site)
    browser.visit(write)
    assert site.app.test_client(use_cookies=False).get("/stream", headers={"Cookie": browser.cookie}).text
    assert browser.visit(read) == "Ada"


@pytest.mark.parametrize("end", ENDS)
def test_an_end_that_another_stores_transaction_has_rolled_back_reaches_no_browser_either(
    site: Site, browser: Browser, end: Use
) -> None:
    def roll_back(store: UserStore) -> None:
        with suppress(ZeroDivisionError), site.middleware.for_user("ada").transaction():
            end(store)
            raise ZeroDivisionError

    browser.visit(roll_back)
    assert browser.cookies_received == 1
    assert browser.visit(read) == "Ada"


@pytest.mark.parametrize("end", ENDS)
def test_a_late_request_does_not_bring_back_a_successor_that_was_ended(browser: Browser, clock: Any, end: Use) -> None:
    clock.step(LIFETIME)
    late = browser.in_flight()
    browser.visit(end)
    late.visit(nothing)
    assert late.cookies_received == 0
