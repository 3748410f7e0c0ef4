"""``flask.session`` in the visitor's store: as Flask has it, with one cookie, and without what its own cookie loses.

A request in flight is one whose view makes another request of the same browser, and goes on after it. Flask's own tests
run on it with ``scripts/flask-suite``.
"""

from __future__ import annotations

import logging
import time
import uuid
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clocks import HandClock
from dash import Dash, html
from flask import Flask, flash, g, get_flashed_messages, session
from flask.sessions import SecureCookieSessionInterface, SessionInterface
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_user, logout_user
from markupsafe import Markup
from urls import rewrite
from visits import SECRET, Browser, Site, Use

from flask_dash_store import (
    ConfigurationError,
    InvalidKey,
    LateSetting,
    NotANumber,
    UnstorableValue,
    UserStore,
    UserStoreMiddleware,
)
from flask_dash_store.owner import FLASK_SESSION_KEY as KEY
from flask_dash_store.store.internal import read as read_own
from flask_dash_store.store.internal import write as write_own
from flask_dash_store.testing import user_store_context, user_store_transaction


@pytest.fixture
def site(clock: HandClock, tmp_path: Path, url: str) -> Site:
    return Site(clock, tmp_path, url=url, flask_session=True, cookie_eager=False)


@pytest.fixture
def local(clock: HandClock, tmp_path: Path) -> Site:
    """One in SQLite, where the storage does not matter."""
    return Site(clock, tmp_path, flask_session=True, cookie_eager=False)


def put(**values: Any) -> Use:
    return lambda store: session.update(values)


def read(store: UserStore) -> dict[str, Any]:
    return dict(session)


def shown(store: UserStore) -> list[Any]:
    return list(get_flashed_messages())


def begun(site: Site, **values: Any) -> Browser:
    browser = Browser(site)
    browser.visit(put(**(values or {"begun": True})))
    return browser


# One cookie


def test_the_session_and_the_store_have_one_cookie_with_flasks_name(site: Site) -> None:
    browser = Browser(site)
    browser.visit(lambda store: session.update(n=1) or store.update(m=2))
    assert browser.cookie.startswith("session=")
    assert browser.cookies_received == 1
    assert browser.visit(lambda store: (dict(session), store["m"])) == ({"n": 1}, 2)
    assert browser.cookies_received == 1


def test_to_read_an_empty_session_gives_no_visitor_a_cookie_and_a_request_without_it_neither(site: Site) -> None:
    browser = Browser(site)
    assert browser.visit(lambda store: session.get("n")) is None
    browser.visit()
    assert browser.cookie == ""


def test_a_session_that_is_changed_again_and_again_sends_no_second_cookie(site: Site) -> None:
    browser = begun(site)
    for n in range(3):
        browser.visit(put(n=n))
    assert browser.visit(read) == {"begun": True, "n": 2}
    assert browser.cookies_received == 1


def test_a_dash_app_gives_its_visitors_the_cookie_with_the_page_for_all_of_the_servers_paths(tmp_path: Path) -> None:
    server = Flask("board", instance_path=str(tmp_path))
    server.config["SECRET_KEY"] = SECRET
    dash = Dash("board", server=server, url_base_pathname="/board/")
    dash.layout = html.Div()
    UserStoreMiddleware(dash, flask_session=True)
    response = server.test_client().get("/board/")
    assert response.headers["Set-Cookie"].startswith("session=")
    assert "Path=/;" in response.headers["Set-Cookie"] + ";"


def test_an_emptied_session_takes_the_cookie_away_unless_the_store_holds_something(site: Site) -> None:
    browser = begun(site)
    browser.visit(lambda store: session.clear())
    assert browser.cookie == "session="
    other = begun(site)
    other.visit(lambda store: session.clear() or store.update(n=1))
    assert other.visit(dict) == {"n": 1}


def test_a_session_that_a_request_in_flight_fills_again_has_its_cookie_sent_again(site: Site) -> None:
    browser = begun(site)

    def view(store: UserStore) -> None:
        assert session["begun"]
        browser.in_flight().visit(lambda store: session.clear())
        session["late"] = True

    browser.visit(view)
    assert browser.cookies_received == 2
    assert browser.visit(read) == {"late": True}


# Values


def test_values_keep_their_types_whatever_the_codec_is(clock: HandClock, tmp_path: Path) -> None:
    values = {
        "tuple": (1, "two", [3]),
        "bytes": b"\xff",
        "markup": Markup("<b>"),
        "uuid": uuid.uuid4(),
        "date": datetime(2024, 1, 2, tzinfo=UTC),
        "nested": {"a": [{"b": (1,)}]},
        "none": None,
    }
    for codec in ("pickle", "json"):
        site = Site(clock, tmp_path, url="memory://", codec=codec, flask_session=True)
        browser = begun(site, **values)
        found = browser.visit(read)
        assert found == values
        assert {key: type(value) for key, value in found.items()} == {key: type(each) for key, each in values.items()}


def test_with_pickle_a_session_holds_what_no_json_can_say(site: Site) -> None:
    browser = begun(site, numbers={1: {2, 3}}, when=timedelta(days=1))
    assert browser.visit(read) == {"numbers": {1: {2, 3}}, "when": timedelta(days=1)}


def test_a_value_that_cannot_be_stored_is_named_with_its_key_in_the_session(site: Site) -> None:
    browser = begun(site, n=1)
    with pytest.raises(UnstorableValue, match=r"cannot be pickled. The cause is flask\.session\['f'\]\.$"):
        browser.visit(put(n=2, f=lambda: 1))
    assert browser.visit(read) == {"n": 1}


def test_what_is_changed_inside_of_a_value_is_kept_without_saying_modified(site: Site) -> None:
    browser = begun(site, cart={"items": [1]})
    browser.visit(lambda store: session["cart"]["items"].append(2))
    assert browser.visit(read) == {"cart": {"items": [1, 2]}}


def test_true_in_the_place_of_one_is_a_change(local: Site) -> None:
    browser = begun(local, n=1)
    browser.visit(put(n=True))
    assert browser.visit(read)["n"] is True


def test_a_session_is_read_once_and_not_at_all_by_a_request_without_it(site: Site) -> None:
    browser = begun(site, cart=[])

    def view(store: UserStore) -> Any:
        first = session["cart"]
        write_own(store, KEY, {"cart": "another"})  # what is stored does not reach the request any more
        return first is session["cart"]

    assert browser.visit(view)


def test_a_session_that_cannot_be_read_begins_empty_and_is_logged(
    site: Site, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    browser = begun(site)
    rewrite(url, KEY, lambda payload: payload[:-1] + bytes([payload[-1] ^ 1]))
    assert browser.visit(read) == {}
    assert [record.levelno for record in caplog.records if "begins empty" in record.message] == [logging.WARNING]
    browser.visit(put(n=1))
    assert browser.visit(read) == {"n": 1}


@pytest.mark.parametrize("key", ["_flask_session", "session", KEY, f"{KEY} ", KEY.replace("/", "%2F")])
def test_no_key_that_an_app_lets_its_visitors_choose_is_that_of_the_session(site: Site, key: str) -> None:
    browser = begun(site, n=1)
    forged = {"_user_id": "admin"}
    for write in (
        lambda store: store.update({key: forged}),
        lambda store: store.set(key, forged),
        lambda store: store.setdefault(key, forged),
        lambda store: store.edit(key, forged).__enter__(),
        lambda store: store.increment(key),
        lambda store: store.expire(key, 1),
        lambda store: store.pop(key),
    ):
        with suppress(InvalidKey, KeyError, NotANumber):
            browser.visit(write)
    assert browser.visit(read) == {"n": 1}


def test_the_store_does_not_show_the_session(site: Site) -> None:
    browser = begun(site, n=1)
    shown = browser.visit(lambda store: (len(store), bool(store), list(store), dict(store), store.describe()))
    assert shown == (0, False, [], {}, [])
    assert KEY not in browser.visit(repr)
    with pytest.raises(KeyError):
        browser.visit(UserStore.popitem)
    browser.visit(UserStore.clear)
    assert browser.visit(read) == {}


# Requests in parallel


def test_requests_in_parallel_keep_each_others_keys(site: Site) -> None:
    browser = begun(site)

    def view(store: UserStore) -> None:
        assert session["begun"]
        browser.in_flight().visit(put(other=1))
        session["mine"] = 2

    browser.visit(view)
    assert browser.visit(read) == {"begun": True, "other": 1, "mine": 2}


def test_modified_and_what_is_set_to_what_it_was_overwrite_nothing(site: Site) -> None:
    browser = begun(site, n=1, cart=[1])

    def view(store: UserStore) -> None:
        session["n"], session["cart"], session.modified = 1, list(session["cart"]), True
        browser.in_flight().visit(lambda store: session.update(n=2) or session["cart"].append(2))

    browser.visit(view)
    assert browser.visit(read) == {"n": 2, "cart": [1, 2]}


def test_of_a_key_that_two_requests_change_the_last_wins_and_a_removed_key_stays_away(site: Site) -> None:
    browser = begun(site, n=1, gone=1)

    def view(store: UserStore) -> None:
        assert session["gone"]
        browser.in_flight().visit(lambda store: session.update(n=2) or session.pop("gone"))
        session["n"] = 3

    browser.visit(view)
    assert browser.visit(read) == {"n": 3}


def test_messages_that_are_flashed_in_parallel_are_all_shown_once(site: Site) -> None:
    browser = begun(site)
    browser.visit(lambda store: flash("first"))

    def view(store: UserStore) -> None:
        flash("second")
        assert browser.in_flight().visit(shown) == ["first"]
        browser.in_flight().visit(lambda store: flash("second"))

    browser.visit(view)
    assert browser.visit(shown) == ["second", "second"]
    assert browser.visit(shown) == []


def test_a_message_that_is_flashed_while_another_is_shown_is_shown_next(site: Site) -> None:
    browser = begun(site)
    browser.visit(lambda store: flash("first"))

    def view(store: UserStore) -> Any:
        messages = shown(store)
        browser.in_flight().visit(lambda store: flash("second"))
        return messages

    assert [browser.visit(view), browser.visit(shown), browser.visit(shown)] == [["first"], ["second"], []]


# How long


def max_age(client: FlaskClient, path: str) -> str | None:
    for header in client.get(path).headers.getlist("Set-Cookie"):
        return dict(part.partition("=")[::2] for part in header.split("; ")).get("Max-Age")
    return "no cookie"


def shop(clock: HandClock | None = None, **config: Any) -> Flask:
    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", USER_STORE_FLASK_SESSION=True, TESTING=True)
    app.config.update(config)
    app.add_url_rule("/put", "put", lambda: str(session.setdefault("n", 1)))
    app.add_url_rule("/get", "get", lambda: str(dict(session)))
    app.add_url_rule("/keep/<int:how>", "keep", lambda how: setattr(session, "permanent", bool(how)) or str(how))
    app.add_url_rule("/nothing", "nothing", lambda: "nothing")
    UserStoreMiddleware(app, **({} if clock is None else {"clock": clock}))
    return app


def test_permanent_chooses_how_long_browsers_keep_the_cookie(clock: HandClock) -> None:
    client = shop(clock, PERMANENT_SESSION_LIFETIME=500, USER_STORE_LIFETIME=5000).test_client()
    assert max_age(client, "/put") is None
    assert max_age(client, "/nothing") == "no cookie"
    assert [max_age(client, "/keep/1"), max_age(client, "/get"), max_age(client, "/nothing")] == ["500"] * 3
    assert max_age(client, "/keep/0") is None
    assert max_age(client, "/get") == "no cookie"


def test_a_permanent_sessions_cookie_is_sent_with_changes_alone_where_flask_is_told_so(clock: HandClock) -> None:
    client = shop(clock, SESSION_REFRESH_EACH_REQUEST=False).test_client()
    assert max_age(client, "/keep/1") == str(31 * 24 * 60 * 60)
    assert max_age(client, "/get") == "no cookie"


def test_a_cookie_that_is_sent_again_keeps_its_time_of_issue_and_so_the_lifetime(clock: HandClock) -> None:
    client = shop(clock, PERMANENT_SESSION_LIFETIME=500, USER_STORE_LIFETIME=1000).test_client()
    client.get("/put")
    client.get("/keep/1")
    ages = []
    for _ in range(3):
        clock.step(300)
        ages.append(max_age(client, "/nothing"))
    assert ages == ["500", "400", "100"]
    clock.step(100)
    assert client.get("/get").text == "{}"


def test_a_permanent_session_is_kept_alive_by_requests_that_do_not_use_it(clock: HandClock) -> None:
    client = shop(clock, PERMANENT_SESSION_LIFETIME=500, USER_STORE_LIFETIME=5000, USER_STORE_TTL=10).test_client()
    client.get("/put")
    client.get("/keep/1")
    for _ in range(3):
        clock.step(400)
        client.get("/nothing")
    assert client.get("/get").text == "{'n': 1, '_permanent': True}"


def test_the_store_keeps_what_a_cookie_stands_for_at_least_as_long_as_browsers_keep_it(clock: HandClock) -> None:
    client = shop(clock, USER_STORE_TTL=10).test_client()
    client.get("/put")
    clock.step(30 * 24 * 60 * 60)
    assert client.get("/get").text == "{'n': 1}"


# Login and logout


def log_in(user: str) -> Use:
    return lambda store: session.update(_user_id=user)


def log_out(store: UserStore) -> None:
    session.pop("_user_id")


def test_a_login_gives_the_session_another_id_and_counts_as_that_users(site: Site) -> None:
    browser = begun(site)
    planted = browser.in_flight()
    browser.visit(log_in("ada"))
    assert browser.id != planted.id
    assert planted.visit(lambda store: (dict(session), dict(store))) == ({}, {})
    assert browser.visit(read) == {"begun": True, "_user_id": "ada"}
    assert len(site.middleware.sessions("ada")) == 1


def test_a_double_click_on_log_in_loses_nothing(site: Site) -> None:
    browser = begun(site)
    twin = browser.in_flight()
    browser.visit(log_in("ada"))
    twin.visit(log_in("ada"))
    assert twin.id == browser.id
    assert twin.visit(read) == {"begun": True, "_user_id": "ada"}


def test_a_logout_or_another_users_login_leaves_nothing_but_what_that_request_sets(site: Site) -> None:
    browser = begun(site, secret="ada's")
    browser.visit(log_in("ada"))
    browser.visit(lambda store: store.update(secret="ada's"))

    def switch(store: UserStore) -> None:
        session["_user_id"] = "bob"
        session["welcome"] = "bob"

    browser.visit(switch)
    assert browser.visit(lambda store: (dict(session), store.get("secret"))) == (
        {"_user_id": "bob", "welcome": "bob"},
        None,
    )
    assert site.middleware.sessions("ada") == []
    bobs = browser.in_flight()

    def leave(store: UserStore) -> None:
        log_out(store)
        flash("Goodbye")

    browser.visit(leave)
    assert browser.visit(lambda store: (shown(store), dict(session))) == (["Goodbye"], {})
    assert bobs.visit(read) == {}


def test_regenerate_says_who_a_user_is_whatever_the_session_calls_them(site: Site) -> None:
    browser = begun(site, _user_id="ada's name of before")
    browser.visit(lambda store: store.regenerate(user_id="ada"))

    def rename(store: UserStore) -> None:
        session["_user_id"] = "ada's name of now"
        store.regenerate(user_id="ada")

    browser.visit(rename)
    assert browser.visit(read) == {"_user_id": "ada's name of now"}
    assert len(site.middleware.sessions("ada")) == 1


def test_after_destroy_the_rest_of_the_request_sees_and_keeps_what_it_has_set_itself(site: Site) -> None:
    browser = begun(site, n=1)

    def view(store: UserStore) -> Any:
        session["before"] = 1
        store.destroy()
        session["after"] = 2
        return dict(session)

    assert browser.visit(view) == {"before": 1, "after": 2}
    assert browser.visit(read) == {"before": 1, "after": 2}


def test_a_logout_wins_over_a_request_that_finishes_later(site: Site) -> None:
    browser = begun(site)
    browser.visit(log_in("ada"))
    late = browser.in_flight()

    def view(store: UserStore) -> None:
        session["seen"] = True
        browser.visit(log_out)

    late.visit(view)
    assert late.status == 200
    assert late.cookies_received == 0
    assert [browser.visit(read), late.visit(read)] == [{}, {}]


def test_a_permanent_session_that_has_ended_is_not_sent_again_by_a_request_in_flight(site: Site) -> None:
    browser = begun(site)
    browser.visit(lambda store: setattr(session, "permanent", True))
    late = browser.in_flight()
    late.visit(lambda store: browser.visit(lambda store: store.destroy()))
    assert late.cookies_received == 0


def test_where_logins_are_kept_under_another_key_a_setting_says_so(clock: HandClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, flask_session=True, flask_session_user_key="user")
    browser = begun(site)
    before = browser.id
    browser.visit(put(_user_id="ada"))
    assert browser.id == before
    browser.visit(put(user=7))
    assert browser.id != before
    assert len(site.middleware.sessions(7)) == 1


def test_without_a_user_key_the_session_is_left_to_the_app(clock: HandClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, flask_session=True, flask_session_user_key=None)
    browser = begun(site)
    before = browser.id
    browser.visit(put(_user_id="ada"))
    browser.visit(log_out)
    assert (browser.id, browser.visit(read)) == (before, {"begun": True})


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


def test_with_flask_login_a_login_renews_the_id_once_and_a_logout_ends_the_session(
    clock: HandClock, tmp_path: Path, url: str
) -> None:
    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=url, TESTING=True)
    LoginManager(app).user_loader(User)
    stores = UserStoreMiddleware(app, flask_session=True)
    ids: list[str | None] = []

    def enter() -> str:
        login_user(User("ada"), remember=True)
        ids.append(g.user_store.session_id)
        return "in"

    app.add_url_rule("/in", view_func=enter)
    app.add_url_rule("/put", "put", lambda: str(session.update(cart=1)))
    app.add_url_rule("/out", "out", lambda: str(logout_user()) + str(flash("Goodbye")))
    app.add_url_rule("/get", "get", lambda: str(dict(session)))
    client = app.test_client()
    client.get("/put")
    planted = client.get_cookie("session")
    client.get("/in")
    cookie = client.get_cookie("session")
    assert planted is not None
    assert cookie is not None
    assert ids == [cookie.value[:64]]
    assert cookie.value[:64] != planted.value[:64]
    assert "'cart': 1" in client.get("/get").text
    assert len(stores.sessions("ada")) == 1
    client.get("/out")
    assert client.get_cookie("remember_token") is None
    assert client.get("/get").text == "{'_flashes': [('message', 'Goodbye')]}"
    stores.close()


# Flask's own cookie before


def with_flasks_cookie(app: Flask, **values: Any) -> FlaskClient:
    """A client whose cookie is Flask's own, as before the app began to keep sessions in stores."""
    before = Flask("before")
    before.config.update(SECRET_KEY=SECRET)
    client = before.test_client()
    with client.session_transaction() as its_session:
        its_session.update(values)
    cookie = client.get_cookie("session")
    assert cookie is not None
    client = app.test_client()
    client.set_cookie("session", cookie.value)
    return client


def session_cookie(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    assert cookie is not None
    return cookie.value


@pytest.mark.parametrize("first", ["/get", "/nothing", "/put"])
def test_flasks_own_cookie_is_taken_over_whatever_the_first_request_does(url: str, first: str) -> None:
    app = shop(USER_STORE_URL=url)
    client = with_flasks_cookie(app, _user_id="ada", n=1, pair=(1, 2))
    client.get(first)
    assert len(session_cookie(client)) > 128
    assert session_cookie(client).count(".") == 3
    assert client.get("/get").text == "{'_user_id': 'ada', 'n': 1, 'pair': (1, 2)}"
    assert len(app.extensions["user_store"].sessions("ada")) == 1
    app.extensions["user_store"].close()


def test_requests_in_parallel_take_over_flasks_cookie_together(url: str) -> None:
    app = shop(USER_STORE_URL=url)
    clients = [with_flasks_cookie(app, n=1)]
    for _ in range(2):
        clients.append(app.test_client())
        clients[-1].set_cookie("session", session_cookie(clients[0]))
    assert [client.get("/get").text for client in clients] == ["{'n': 1}"] * 3
    assert len({session_cookie(client) for client in clients}) == 1
    app.extensions["user_store"].close()


@pytest.mark.parametrize("comes_after", [0, 10])
def test_a_copy_of_flasks_cookie_opens_nothing_once_its_session_has_ended(url: str, comes_after: float) -> None:
    clock = HandClock(time.time())
    app = shop(clock, USER_STORE_URL=url)
    app.add_url_rule("/out", "out", lambda: str(g.user_store.destroy()))
    client = with_flasks_cookie(app, _user_id="ada")
    thief = app.test_client()
    thief.set_cookie("session", session_cookie(client))
    client.get("/get")
    client.get("/out")
    clock.step(comes_after)
    assert thief.get("/get").text == "{}"
    app.extensions["user_store"].close()


@pytest.mark.parametrize("days", [0, 3])
def test_a_copy_of_flasks_cookie_brings_nothing_back_once_its_session_is_empty(url: str, days: int) -> None:
    clock = HandClock(time.time())
    app = shop(clock, USER_STORE_URL=url)
    app.add_url_rule("/out", "out", lambda: str(session.clear()))
    client = with_flasks_cookie(app, user="ada")
    thief = app.test_client()
    thief.set_cookie("session", session_cookie(client))
    assert client.get("/get").text == "{'user': 'ada'}"
    client.get("/out")  # of an app whose logins the store does not know
    clock.step(days * 24 * 60 * 60)
    app.extensions["user_store"].purge()
    assert thief.get("/get").text == "{}"
    app.extensions["user_store"].close()


def test_after_another_secret_key_a_cookie_of_flask_leads_to_the_same_session_or_to_none_when_that_has_ended() -> None:
    app = shop()
    app.add_url_rule("/out", "out", lambda: str(g.user_store.destroy()))
    ada, bob = with_flasks_cookie(app, n=1), with_flasks_cookie(app, n=2)
    copies = []
    for client in (ada, bob):
        copies.append(app.test_client())
        copies[-1].set_cookie("session", session_cookie(client))
        client.get("/put")
    bob.get("/out")
    app.secret_key, app.config["SECRET_KEY_FALLBACKS"] = SECRET[::-1], [SECRET]
    assert [copy.get("/get").text for copy in copies] == ["{'n': 1}", "{}"]
    assert session_cookie(copies[0])[:64] == session_cookie(ada)[:64]


def test_a_cookie_of_flask_that_is_too_old_or_of_another_app_is_worth_nothing() -> None:
    client = with_flasks_cookie(shop(SECRET_KEY=SECRET[::-1]), n=1)
    assert client.get("/get").text == "{}"
    assert with_flasks_cookie(shop(PERMANENT_SESSION_LIFETIME=-1), n=1).get("/get").text == "{}"


# What Flask's session can


def test_session_transaction_and_the_stores_own_share_a_session() -> None:
    client = shop().test_client()
    with client.session_transaction() as its_session:
        its_session["n"] = 5
    assert client.get("/get").text == "{'n': 5}"
    with user_store_transaction(client) as store:
        store["m"] = 6
    with client.session_transaction() as its_session:
        assert dict(its_session) == {"n": 5}
    with user_store_transaction(client) as store:
        assert store["m"] == 6


def test_a_user_store_context_has_a_session_in_its_own_store(tmp_path: Path) -> None:
    app = Flask("shop", instance_path=str(tmp_path))
    app.config["SECRET_KEY"] = SECRET
    UserStoreMiddleware(app, flask_session=True)
    with user_store_context(app) as store:
        session["n"] = 1
        app.process_response(app.response_class())
        assert read_own(store, KEY)[0] == {"n": 1}
    assert list(tmp_path.iterdir()) == []


def test_without_a_secret_key_the_session_is_flasks_null_session() -> None:
    client = shop(SECRET_KEY=None).test_client()
    assert client.get("/nothing").text == "nothing"
    assert client.get("/get").text == "{}"
    with pytest.raises(RuntimeError, match="session is unavailable"):
        client.get("/put")


def test_what_flasks_settings_become_counts_from_the_next_request_on() -> None:
    app = shop()
    client = app.test_client()
    with warnings.catch_warnings():
        warnings.simplefilter("error", LateSetting)
        client.get("/put")
        app.secret_key, app.config["SECRET_KEY_FALLBACKS"] = SECRET[::-1], [SECRET]
        app.config.update(SESSION_COOKIE_SAMESITE="Strict", SESSION_COOKIE_HTTPONLY=False)
        response = client.get("/get")
    assert response.text == "{'n': 1}"
    assert "SameSite=Strict" in response.headers["Set-Cookie"]
    assert "HttpOnly" not in response.headers["Set-Cookie"]
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    assert "SameSite=Lax" in client.get("/get").headers["Set-Cookie"]
    assert "Set-Cookie" not in client.get("/get").headers
    with pytest.warns(LateSetting, match="USER_STORE_TTL"):
        app.config["USER_STORE_TTL"] = 5


def test_the_cookie_has_no_samesite_where_flask_sets_none_and_what_the_setting_says_otherwise() -> None:
    assert "SameSite" not in shop().test_client().get("/put").headers["Set-Cookie"]
    app = shop(SESSION_COOKIE_PARTITIONED=True, SESSION_COOKIE_PATH="/put", SESSION_COOKIE_NAME="mine")
    header = app.test_client().get("/put").headers["Set-Cookie"]
    assert header.startswith("mine=")
    assert {"Secure", "HttpOnly", "Path=/put", "Partitioned"} <= set(header.split("; "))


# What is refused


class OtherInterface(SessionInterface):
    pass


@pytest.mark.parametrize("interface", [OtherInterface(), type("Mine", (SecureCookieSessionInterface,), {})()])
def test_another_session_interface_is_refused_with_what_to_do(interface: SessionInterface) -> None:
    app = Flask("shop")
    app.secret_key, app.session_interface = SECRET, interface
    with pytest.raises(ConfigurationError, match=r"session interface .*\. Remove what sets it"):
        UserStoreMiddleware(app, url="memory://", flask_session=True)
    app = shop()
    app.session_interface = interface
    with pytest.raises(ConfigurationError, match="session interface"):
        app.test_client().get("/nothing")


def test_without_the_setting_another_session_interface_is_the_apps_own_matter() -> None:
    app = Flask("shop")
    app.secret_key, app.session_interface = SECRET, OtherInterface()
    UserStoreMiddleware(app, url="memory://")


def test_flasks_cookie_name_is_for_flasks_session_alone() -> None:
    app = Flask("shop")
    app.secret_key = SECRET
    with pytest.raises(ConfigurationError, match="flask_session=True"):
        UserStoreMiddleware(app, url="memory://", cookie_name="session")
    with pytest.raises(ConfigurationError, match="flask_session uses SESSION_COOKIE_NAME"):
        UserStoreMiddleware(app, url="memory://", cookie_name="other", flask_session=True)


def test_the_setting_may_come_after_the_middleware() -> None:
    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://")
    UserStoreMiddleware(app)
    app.config["USER_STORE_FLASK_SESSION"] = True
    app.add_url_rule("/put", "put", lambda: str(session.setdefault("n", 1)))
    assert app.test_client().get("/put").headers["Set-Cookie"].count(".") == 3
