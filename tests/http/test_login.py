"""Logging in and out as browsers do it: twice, in parallel, with responses that never arrive.

Promises: docs/security.md, "The end of a session"; OWASP ASVS 5.0, 7.2.4, 7.4.1 and 7.4.3. A browser drops the first
response when a button is clicked twice, and any response in a tunnel.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g
from visits import LIFETIME, TTL, Browser, Site, Use, nothing, read, write

from flask_dash_store import NotASession, SessionEnded, UserStore, UserStoreMiddleware, user_store
from flask_dash_store.storage import register_storage

GRACE = 5


@pytest.fixture
def site(clock: Any, tmp_path: Path, url: str) -> Site:
    return Site(clock, tmp_path, url=url)


@pytest.fixture
def browser(site: Site) -> Browser:
    """One whose visitor has stored a name."""
    browser = Browser(site)
    browser.visit(write)
    return browser


def log_in(user: str) -> Use:
    """A login view, which then stores something of the user's own."""

    def view(store: UserStore) -> None:
        store.regenerate(user)
        store[f"secret of {user}"] = user

    return view


# Session fixation


@pytest.mark.parametrize("arrives_after", [0, GRACE - 0.1, GRACE + 0.1])
def test_an_attacker_who_planted_the_old_id_and_logs_in_as_themself_gets_a_session_of_their_own(
    site: Site, browser: Browser, clock: Any, arrives_after: float
) -> None:
    attacker = browser.in_flight()  # knows the id that the victim has before the login
    browser.visit(log_in("victim"))
    clock.step(arrives_after)
    attacker.visit(log_in("attacker"))
    assert attacker.visit(dict) == {"secret of attacker": "attacker"}
    assert browser.visit(dict) == {"name": "Ada", "secret of victim": "victim"}
    assert attacker.id[:20] != browser.id[:20]
    browser.visit(lambda store: store.update(later="the victim's"))
    assert attacker.visit(dict) == {"secret of attacker": "attacker"}
    assert len(site.middleware.sessions("victim")) == len(site.middleware.sessions("attacker")) == 1


def test_an_attacker_who_is_in_flight_while_the_victim_logs_in_gets_a_session_of_their_own_too(
    browser: Browser,
) -> None:
    attacker = browser.in_flight()

    def view(store: UserStore) -> None:
        assert read(store) == "Ada"
        browser.visit(log_in("victim"))
        store.regenerate("attacker")
        assert dict(store) == {}

    attacker.visit(view)
    assert attacker.visit(dict) == {}


def test_a_victim_whose_planted_session_the_attacker_has_logged_in_with_gets_a_session_of_their_own(
    browser: Browser,
) -> None:
    attacker = browser.in_flight()
    attacker.visit(log_in("attacker"))
    browser.visit(log_in("victim"))
    assert browser.visit(dict) == {"secret of victim": "victim"}
    assert "secret of victim" not in attacker.visit(dict)


@pytest.mark.parametrize("user", [None, "ada"])
def test_an_id_that_was_known_before_the_login_opens_nothing_after_it(browser: Browser, user: str | None) -> None:
    thief = browser.in_flight()
    browser.visit(lambda store: store.regenerate(user))
    assert (thief.visit(dict), thief.cookies_received) == ({}, 0)
    assert browser.visit(read) == "Ada"


# Double clicks and lost responses


def test_a_second_login_of_the_same_user_joins_the_first_so_that_no_value_is_lost(
    site: Site, browser: Browser, clock: Any
) -> None:
    first, second = browser.in_flight(), browser.in_flight()
    first.visit(log_in("ada"))  # Its response is dropped by the browser,
    clock.step(0.09)
    second.visit(log_in("ada"))  # which clicked again.
    assert second.id == first.id != browser.id
    assert second.cookie == first.cookie
    assert second.visit(dict) == {"name": "Ada", "secret of ada": "ada"}
    assert len(site.middleware.sessions("ada")) == 1


def test_a_login_that_was_in_flight_during_the_first_one_joins_it_however_long_it_takes(
    browser: Browser, clock: Any
) -> None:
    first, second = browser.in_flight(), browser.in_flight()

    def check_the_password_slowly(store: UserStore) -> None:
        first.visit(log_in("ada"))
        clock.step(GRACE * 4)
        store.regenerate("ada")

    second.visit(check_the_password_slowly)
    assert second.id == first.id


def test_six_logins_of_one_user_at_once_in_two_workers_end_in_one_session(
    site: Site, browser: Browser, clock: Any, tmp_path: Path, url: str
) -> None:
    clicks = [browser.in_flight(worker) for worker in (site, Site(clock, tmp_path, url=url)) * 3]
    for click in clicks:
        click.visit(log_in("ada"))
        clock.step(0.1)
    assert len({click.id for click in clicks}) == 1
    assert clicks[-1].visit(read) == "Ada"


def test_a_login_that_comes_later_than_a_double_click_begins_a_fresh_session(browser: Browser, clock: Any) -> None:
    late = browser.in_flight()
    browser.visit(log_in("ada"))
    clock.step(GRACE + 0.1)
    late.visit(log_in("ada"))
    assert (late.status, late.cookies_received) == (200, 1)
    assert late.visit(dict) == {"secret of ada": "ada"}


def test_a_login_does_not_join_a_session_that_was_ended_meanwhile(browser: Browser) -> None:
    first, second = browser.in_flight(), browser.in_flight()
    first.visit(log_in("ada"))
    first.visit(UserStore.destroy)
    second.visit(log_in("ada"))
    assert second.visit(dict) == {"secret of ada": "ada"}
    assert first.visit(dict) == {}


@pytest.mark.parametrize("end", [UserStore.regenerate, UserStore.destroy, log_in("bob")])
@pytest.mark.parametrize("user", [None, "ada"])
def test_regenerate_on_an_ended_session_begins_a_fresh_one_whose_cookie_the_response_brings(
    browser: Browser, end: Use, user: str | None
) -> None:
    late = browser.in_flight()
    browser.visit(end)
    late.visit(lambda store: (store.regenerate(user), store.update(city="Paris")))
    assert (late.status, late.cookies_received) == (200, 1)
    assert late.visit(dict) == {"city": "Paris"}


@pytest.mark.parametrize("end", [UserStore.regenerate, UserStore.destroy])
def test_logging_out_of_an_ended_session_is_not_an_error_and_brings_a_fresh_cookie(browser: Browser, end: Use) -> None:
    late = browser.in_flight()
    browser.visit(end)
    late.visit(UserStore.destroy)
    assert (late.status, late.cookies_received) == (200, 1)
    late.visit(write)
    assert (late.visit(read), late.status) == ("Ada", 200)
    assert late.id[:20] != browser.id[:20]


def test_a_login_right_after_a_logout_in_one_request_begins_a_fresh_session(browser: Browser) -> None:
    old_id = browser.id
    browser.visit(lambda store: (store.destroy(), store.regenerate("bob"), store.update(city="Paris")))
    assert browser.visit(dict) == {"city": "Paris"}
    assert (browser.id[:20] != old_id[:20], browser.cookies_received) == (True, 2)


@pytest.mark.parametrize("raises_in", ["view", "teardown"])
def test_where_the_response_to_a_login_fails_the_next_login_loses_nothing(site: Site, raises_in: str) -> None:
    site.app.testing = False

    @site.app.teardown_request
    def tear_down(_: BaseException | None) -> None:
        if g.pop("fails_in", None) == "teardown":
            raise ZeroDivisionError

    def fail(store: UserStore) -> None:
        store.regenerate("ada")
        g.fails_in = raises_in
        if raises_in == "view":
            raise ZeroDivisionError

    browser = Browser(site)
    browser.visit(write)
    with suppress(ZeroDivisionError):
        browser.in_flight().visit(fail)
    browser.visit(log_in("ada"))
    assert browser.visit(read) == "Ada"


# A session that ended


@pytest.mark.parametrize("end", [UserStore.regenerate, UserStore.destroy])
def test_a_write_in_flight_at_the_end_is_answered_with_409_and_nothing_is_logged_as_an_error(
    site: Site, browser: Browser, end: Use, caplog: pytest.LogCaptureFixture
) -> None:
    site.app.testing = False
    late = browser.in_flight()
    browser.visit(end)
    late.visit(write)
    assert (late.status, late.cookies_received) == (409, 0)
    assert caplog.records == []


@pytest.mark.parametrize("end", [UserStore.regenerate, UserStore.destroy])
@pytest.mark.parametrize("use", [read, write, lambda store: store.increment("n"), lambda store: store.update(a=1)])
def test_a_dead_id_that_comes_later_gets_a_new_session_with_that_response(
    browser: Browser, clock: Any, end: Use, use: Use
) -> None:
    missed = browser.in_flight()
    browser.visit(end)
    clock.step(GRACE)
    missed.visit(read)
    assert missed.cookies_received == 0
    clock.step(0.1)
    missed.visit(use)
    assert (missed.status, missed.cookies_received) == (200, 1)
    assert missed.id[:20] != browser.id[:20]
    missed.visit(write)
    assert (missed.visit(read), missed.cookies_received) == ("Ada", 1)


def test_what_a_dead_id_writes_in_a_transaction_is_in_the_new_session(browser: Browser, clock: Any) -> None:
    missed = browser.in_flight()
    browser.visit(UserStore.destroy)
    clock.step(GRACE + 0.1)

    def use(store: UserStore) -> None:
        with store.transaction():
            store["a"] = 1
            with store.edit("list", []) as value:
                value.append(store["a"])
            assert store.pop("a") == 1
            assert store.setdefault("b", 2) == 2

    missed.visit(use)
    assert missed.visit(dict) == {"list": [1], "b": 2}


def test_a_dead_id_that_uses_no_store_costs_no_storage_call_and_gets_no_cookie(browser: Browser, clock: Any) -> None:
    missed = browser.in_flight()
    browser.visit(UserStore.destroy)
    clock.step(GRACE + 0.1)
    missed.visit(nothing)
    assert missed.cookies_received == 0


# New visitors


class Unused:
    """A storage that must not be called."""

    needs_maintenance = False

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called")


def test_regenerate_and_destroy_of_a_new_visitor_call_no_storage(clock: Any) -> None:
    register_storage("unused", lambda url, options: Unused())  # type: ignore[arg-type, return-value]
    app = Flask("site")
    app.config.update(SECRET_KEY="k" * 32, USER_STORE_URL="unused://", TESTING=True)
    UserStoreMiddleware(app, clock=clock)
    app.add_url_rule("/in", "in", lambda: str(g.user_store.regenerate()))
    app.add_url_rule("/out", "out", lambda: str(g.user_store.destroy()))
    for path in ("/in", "/out"):
        response = app.test_client(use_cookies=False).get(path)
        assert (response.status_code, "Set-Cookie" in response.headers) == (200, True)


def test_a_new_visitor_who_logs_in_with_the_first_request_is_that_user(site: Site) -> None:
    browser = Browser(site)
    browser.visit(log_in("ada"))
    assert browser.visit(dict) == {"secret of ada": "ada"}
    assert len(site.middleware.sessions("ada")) == 1


def test_what_a_new_visitor_has_stored_is_gone_after_destroy(site: Site) -> None:
    browser = Browser(site)

    def use(store: UserStore) -> str | None:
        write(store)
        before = store.session_id
        store.destroy()
        assert dict(store) == {}
        with pytest.raises(SessionEnded):
            write(store)
        return before

    written_to = browser.visit(use)
    assert dict(site.middleware.open(written_to or "")) == {}
    assert (browser.visit(dict), browser.id != written_to) == ({}, True)


# The sessions of a user


def test_a_users_sessions_are_listed_with_their_times_and_bytes_and_no_ids(site: Site, clock: Any) -> None:
    began, browsers = clock.now, [Browser(site) for _ in range(3)]
    for browser in browsers:
        browser.visit(log_in("ada"))
        clock.step(100)
    browsers[0].visit(read)
    found = site.middleware.sessions("ada")
    assert [round(each.created_at.timestamp() - began) for each in found] == [0, 100, 200]
    assert [round(each.last_used.timestamp() - began) for each in found] == [300, 100, 200]
    assert {each.nbytes for each in found} == {browsers[0].visit(lambda store: store.nbytes)}
    assert not any(browser.id[:20] in repr(found) for browser in browsers)
    assert site.middleware.sessions("bob") == []
    clock.step(TTL)
    assert site.middleware.sessions("ada") == []


def test_a_user_is_logged_out_everywhere_else(site: Site) -> None:
    browsers = [Browser(site) for _ in range(3)]
    other = Browser(site)
    other.visit(log_in("bob"))
    for browser in browsers:
        browser.visit(log_in("ada"))
    end_all_but = site.middleware.end_sessions
    assert browsers[0].visit(lambda _: end_all_but("ada", but=g.user_store)) == 2
    assert browsers[0].visit(lambda _: end_all_but("ada", but=user_store)) == 0
    assert browsers[0].visit(dict) == {"secret of ada": "ada"}
    assert [browser.visit(dict) for browser in browsers[1:]] == [{}, {}]
    assert other.visit(dict) == {"secret of bob": "bob"}
    assert len(site.middleware.sessions("ada")) == 1
    assert site.middleware.end_sessions("ada") == 1
    assert browsers[0].visit(dict) == {}


def test_a_session_counts_as_the_users_after_another_change_of_rights_and_not_after_logout(site: Site) -> None:
    browser = Browser(site)
    browser.visit(log_in("ada"))
    browser.visit(UserStore.regenerate)
    assert len(site.middleware.sessions("ada")) == 1
    browser.visit(UserStore.destroy)
    assert site.middleware.sessions("ada") == []


def test_the_store_of_a_user_id_is_not_a_session_that_could_go_on(site: Site) -> None:
    with pytest.raises(NotASession):
        site.middleware.end_sessions("ada", but=site.middleware.for_user("ada"))


def test_a_login_that_a_transaction_has_rolled_back_is_none(site: Site, browser: Browser) -> None:
    def roll_back(store: UserStore) -> None:
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.regenerate("ada")
            raise ZeroDivisionError

    old_id = browser.id
    browser.visit(roll_back)
    assert (browser.id, browser.visit(read)) == (old_id, "Ada")
    assert site.middleware.sessions("ada") == []


def test_a_login_begins_the_lifetime_again(browser: Browser, clock: Any) -> None:
    for _ in range(int(LIFETIME / TTL * 2) - 1):
        clock.step(TTL / 2)
        browser.visit(read)
    clock.step(TTL / 2 - 1)
    browser.visit(lambda store: store.regenerate("ada"))
    clock.step(TTL - 1)
    assert browser.visit(read) == "Ada"


# Another user's login, without a logout


def test_another_users_login_finds_nothing_of_the_first_and_ends_their_session(site: Site, browser: Browser) -> None:
    browser.visit(log_in("ada"))
    before = browser.in_flight()
    browser.visit(log_in("bob"))
    assert browser.cookies_received == 3
    assert browser.visit(dict) == {"secret of bob": "bob"}
    assert before.visit(dict) == {}
    assert before.id[:20] != browser.id[:20]
    assert (len(site.middleware.sessions("ada")), len(site.middleware.sessions("bob"))) == (0, 1)


def test_another_login_of_the_same_user_keeps_the_values(site: Site, browser: Browser) -> None:
    browser.visit(log_in("ada"))
    before = browser.id
    browser.visit(lambda store: (store.regenerate(), store.regenerate("ada")))
    assert browser.visit(dict) == {"name": "Ada", "secret of ada": "ada"}
    assert browser.id != before
    assert len(site.middleware.sessions("ada")) == 1


def test_a_double_click_on_the_login_of_another_user_begins_one_session(
    site: Site, browser: Browser, clock: Any
) -> None:
    browser.visit(log_in("ada"))
    first, second, late = (browser.in_flight() for _ in range(3))
    first.visit(log_in("bob"))
    first.visit(write)
    clock.step(0.09)
    second.visit(log_in("bob"))
    assert second.cookie == first.cookie
    assert second.visit(dict) == {"secret of bob": "bob", "name": "Ada"}
    assert len(site.middleware.sessions("bob")) == 1
    clock.step(GRACE)
    late.visit(log_in("bob"))
    assert late.visit(dict) == {"secret of bob": "bob"}


def test_a_double_click_on_a_logout_and_login_in_one_view_begins_one_session(browser: Browser, clock: Any) -> None:
    def switch(store: UserStore) -> None:
        store.destroy()
        log_in("bob")(store)

    first, second, late = (browser.in_flight() for _ in range(3))
    first.visit(switch)
    first.visit(write)
    clock.step(0.09)
    second.visit(switch)
    assert second.cookie == first.cookie
    assert second.visit(dict) == {"secret of bob": "bob", "name": "Ada"}
    clock.step(GRACE)
    late.visit(switch)
    assert late.visit(dict) == {"secret of bob": "bob"}


def test_a_thief_with_the_id_that_another_users_login_has_ended_gets_none_of_theirs(browser: Browser) -> None:
    browser.visit(log_in("ada"))
    thief = browser.in_flight()
    browser.visit(log_in("bob"))
    thief.visit(log_in("eve"))
    assert thief.visit(dict) == {"secret of eve": "eve"}
    assert browser.visit(dict) == {"secret of bob": "bob"}


@pytest.mark.parametrize("is_new", [True, False])
def test_two_logins_in_one_request_share_nothing(site: Site, browser: Browser, is_new: bool) -> None:
    visitor = Browser(site) if is_new else browser
    visitor.visit(lambda store: (log_in("ada")(store), log_in("bob")(store)))
    assert visitor.visit(dict) == {"secret of bob": "bob"}
    assert site.middleware.sessions("ada") == []


def test_what_is_stored_after_a_users_values_have_expired_is_kept_at_a_login(browser: Browser, clock: Any) -> None:
    browser.visit(log_in("ada"))
    clock.step(TTL)
    browser.visit(lambda store: store.update(cart="of a visitor"))
    browser.visit(log_in("bob"))
    assert browser.visit(dict) == {"cart": "of a visitor", "secret of bob": "bob"}


def test_another_users_login_that_is_rolled_back_leaves_the_session_as_it_was(site: Site, browser: Browser) -> None:
    def fail(store: UserStore) -> None:
        with pytest.raises(ZeroDivisionError), store.transaction():
            log_in("bob")(store)
            raise ZeroDivisionError

    browser.visit(log_in("ada"))
    before = browser.id
    browser.visit(fail)
    assert (browser.id, browser.visit(dict)) == (before, {"name": "Ada", "secret of ada": "ada"})
    assert (len(site.middleware.sessions("ada")), site.middleware.sessions("bob")) == (1, [])


def test_another_users_login_on_an_opened_store_goes_on_with_a_session_of_theirs(site: Site, browser: Browser) -> None:
    browser.visit(log_in("ada"))
    store = site.middleware.open(browser.id)
    log_in("bob")(store)
    assert dict(store) == dict(site.middleware.open(store.session_id or "")) == {"secret of bob": "bob"}
    assert browser.visit(dict) == {}
