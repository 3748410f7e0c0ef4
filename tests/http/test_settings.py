"""Flask's settings mean here what they mean in Flask, and what the app sets before its first request counts."""

from __future__ import annotations

import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dash import Dash, html
from flask import Flask, Response, g, session
from visits import LIFETIME, SECRET, TTL, Browser, Site, nothing, read, write
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_dash_store import ConfigurationError, LateSetting, UserStoreMiddleware, WeakSecretKey

OTHER_SECRET = "fedcba9876543210fedcba9876543210"


def make_app(**config: Any) -> Flask:
    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", TESTING=True)
    app.config.update(config)
    app.add_url_rule("/", "count", lambda: str(g.user_store.increment("n")))
    app.add_url_rule("/both", "both", lambda: str(session.update(n=1)) + str(g.user_store.increment("n")))
    app.add_url_rule("/nothing", "nothing", lambda: "nothing")
    return app


def attributes(response: Any, name: str = "user_store") -> set[str]:
    """Those of a cookie that a response sets, but for its times."""
    [cookie] = [each for each in response.headers.getlist("Set-Cookie") if each.startswith(f"{name}=")]
    return {each for each in cookie.split("; ")[1:] if not each.startswith(("Expires", "Max-Age"))}


# SESSION_COOKIE_*


@pytest.mark.parametrize(
    "config",
    [
        {"SESSION_COOKIE_SECURE": True},
        {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_SAMESITE": "None"},
        {"SESSION_COOKIE_SAMESITE": "Strict"},
        {"SESSION_COOKIE_SAMESITE": "strict"},
        {"SESSION_COOKIE_SAMESITE": "lax"},
        {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_SAMESITE": "NONE"},
        {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_PARTITIONED": True, "SESSION_COOKIE_SAMESITE": "Lax"},
        {"SESSION_COOKIE_PATH": "/b", "SESSION_COOKIE_DOMAIN": "example.com", "SESSION_COOKIE_SAMESITE": "Lax"},
    ],
)
def test_the_cookie_has_the_attributes_of_flasks_own(config: dict[str, Any]) -> None:
    app = make_app(**config)
    UserStoreMiddleware(app)
    response = app.test_client().get("/both")
    theirs = attributes(response, "session")
    assert attributes(response) == theirs | (set() if "SESSION_COOKIE_SAMESITE" in config else {"SameSite=Lax"})


def test_where_flask_sets_no_samesite_it_is_lax() -> None:
    app = make_app(SESSION_COOKIE_SAMESITE=None)
    UserStoreMiddleware(app)
    assert attributes(app.test_client().get("/")) == {"HttpOnly", "Path=/", "SameSite=Lax"}


@pytest.mark.parametrize(
    ("own", "flasks"),
    [
        ({"cookie_secure": False}, {"SESSION_COOKIE_SECURE": True}),
        ({"cookie_samesite": "lax"}, {"SESSION_COOKIE_SAMESITE": "Strict"}),
        ({"cookie_partitioned": False}, {"SESSION_COOKIE_PARTITIONED": True}),
    ],
)
def test_an_own_setting_wins_over_flasks(own: dict[str, Any], flasks: dict[str, Any]) -> None:
    for config, options in ((own, {}), ({}, own)):
        app = make_app(**flasks, **{f"USER_STORE_{key.upper()}": value for key, value in config.items()})
        UserStoreMiddleware(app, **options)
        assert attributes(app.test_client().get("/")) == {"HttpOnly", "Path=/", "SameSite=Lax"}


def test_a_samesite_that_flask_would_refuse_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="SESSION_COOKIE_SAMESITE"):
        UserStoreMiddleware(make_app(SESSION_COOKIE_SAMESITE="laxer"))


@pytest.mark.parametrize(
    "names", [{"USER_STORE_COOKIE_NAME": "session"}, {"SESSION_COOKIE_NAME": "user_store"}], ids=["ours", "flask's"]
)
def test_one_name_for_this_cookie_and_for_flasks_is_refused_at_start(names: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"USER_STORE_COOKIE_NAME.*SESSION_COOKIE_NAME"):
        UserStoreMiddleware(make_app(**names))


# PERMANENT_SESSION_LIFETIME


def test_a_short_sliding_lifetime_of_flasks_empties_no_store_that_is_in_use(clock: Any) -> None:
    app = make_app(PERMANENT_SESSION_LIFETIME=timedelta(minutes=30))
    UserStoreMiddleware(app, clock=clock)
    client = app.test_client()
    for n in range(1, 20):
        assert client.get("/").text == str(n)
        clock.step(20 * 60)


# Read with the first request


def test_what_is_set_after_the_middleware_and_before_the_first_request_counts(tmp_path: Path) -> None:
    app = make_app(SECRET_KEY=None)
    stores = UserStoreMiddleware(app, cookie_path="/from-an-option")
    app.secret_key = SECRET
    app.config.update(
        USER_STORE_URL=f"sqlite:///{tmp_path}/late.sqlite",
        USER_STORE_TTL=100,
        USER_STORE_COOKIE_NAME="late",
        USER_STORE_COOKIE_PATH="/from-the-config",
        SESSION_COOKIE_SAMESITE="Strict",
    )
    before = time.time()
    response = app.test_client().get("/")
    assert attributes(response, "late") == {"HttpOnly", "Path=/from-an-option", "SameSite=Strict"}
    assert (tmp_path / "late.sqlite").exists()
    session_id = response.headers["Set-Cookie"].partition("=")[2].partition(".")[0]
    expires_at = stores.open(session_id).expires_at
    assert expires_at is not None
    assert before + 99 < expires_at.timestamp() <= time.time() + 100


def test_what_is_wrong_is_an_error_at_start_or_with_the_first_request_if_it_is_set_later() -> None:
    with pytest.raises(ConfigurationError, match="USER_STORE_TTL"):
        UserStoreMiddleware(make_app(USER_STORE_TTL="soon"))
    app = make_app()
    UserStoreMiddleware(app)
    app.config["USER_STORE_TTL"] = "soon"
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="USER_STORE_TTL"):
            app.test_client().get("/")


def test_a_weak_secret_key_that_is_set_late_is_warned_of_too() -> None:
    app = make_app(SECRET_KEY=None)
    UserStoreMiddleware(app)
    app.secret_key = "weak"
    with pytest.warns(WeakSecretKey):
        app.test_client().get("/")


@pytest.mark.parametrize(
    ("key", "value"),
    [("USER_STORE_TTL", 5), ("SECRET_KEY", OTHER_SECRET), ("USER_STORE_NEW", 1)],
)
def test_what_is_set_after_the_first_request_is_warned_of_where_it_is_set(key: str, value: Any) -> None:
    app = make_app()
    UserStoreMiddleware(app)
    client = app.test_client()
    assert client.get("/").text == "1"
    with pytest.warns(LateSetting, match=key) as warned:
        app.config[key] = value
    assert warned[0].filename == __file__
    with pytest.warns(LateSetting, match=key):
        app.config.update({key: [value]})
    assert client.get("/").text == "2"


def test_what_the_store_does_not_read_and_what_stays_the_same_is_not_warned_of() -> None:
    app = make_app()
    UserStoreMiddleware(app)
    app.test_client().get("/")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.config["MY_OWN"] = 1
        app.config.update(SECRET_KEY=SECRET, TESTING=False)
        app.config.from_mapping(DEBUG=False)
    assert (app.config["MY_OWN"], app.testing) == (1, False)


# Rotation of keys


@pytest.fixture
def sites(clock: Any, tmp_path: Path) -> list[Site]:
    """The app before its key is changed, while the old one is a fallback, and when it is gone."""
    return [
        Site(clock, tmp_path, secrets=[OTHER_SECRET]),
        Site(clock, tmp_path, secrets=[SECRET, OTHER_SECRET]),
        Site(clock, tmp_path, secrets=[SECRET]),
    ]


def test_a_cookie_that_a_fallback_has_verified_is_issued_again_once_so_that_the_fallback_can_go(
    sites: list[Site], clock: Any
) -> None:
    old, during, after = sites
    browser = Browser(old)
    browser.visit(write)
    old_id = browser.id
    browser.site = during
    clock.step(TTL / 2)
    for use in (nothing, read, read, write, nothing):
        browser.visit(use)
    assert (browser.id, browser.cookies_received) == (old_id, 2)
    browser.site = after
    assert browser.visit(lambda store: store.session_id) == old_id
    assert browser.cookies_received == 2


def test_a_cookie_that_is_issued_again_does_not_extend_the_lifetime(sites: list[Site], clock: Any) -> None:
    browser, began = Browser(sites[0]), clock.now
    browser.visit(write)
    old_id = browser.id
    browser.site = sites[1]
    while clock.now < began + LIFETIME - TTL:
        clock.step(TTL / 2)
        browser.visit(write)
        assert browser.id == old_id
    browser.site = sites[2]
    clock.step(TTL / 2)
    assert browser.visit(read) is None or browser.id == old_id
    clock.now = began + LIFETIME
    assert browser.visit(lambda store: store.session_id) != old_id


def test_a_late_response_that_issues_a_cookie_again_overwrites_no_newer_one(sites: list[Site]) -> None:
    browser = Browser(sites[0])
    browser.visit(write)
    browser.site = sites[1]
    late = browser.in_flight()

    def overtaken(store: Any) -> None:
        read(store)
        browser.visit(lambda store: store.regenerate("ada"))

    late.visit(overtaken)
    assert (late.cookies_received, browser.cookies_received) == (0, 2)


# Where a session begins


def make_counted_app() -> Flask:
    """An app that counts a visitor's requests, of which routing redirects the one for "/app" to "/app/"."""
    app = make_app()
    app.before_request(lambda: g.user_store.update(hits=g.user_store.get("hits", 0) + 1))
    app.add_url_rule("/hits", "hits", lambda: str(g.user_store["hits"]))
    return app


def hits(app: Flask) -> str:
    """How many a visitor has made who opens "/app" twice, and then a page below it."""
    client = Client(DispatcherMiddleware(Flask("none"), {"/app": app}), Response)
    assert [client.get("/app").status_code for _ in range(2)] == [308, 308]
    return client.get("/app/hits").text


def test_a_mounted_app_that_is_opened_without_a_slash_at_the_end_is_at_its_root() -> None:
    app = make_counted_app()
    UserStoreMiddleware(app)
    assert hits(app) == "3"


def test_a_mounted_dash_app_that_is_opened_without_a_slash_at_the_end_keeps_its_visitor() -> None:
    app = make_counted_app()
    dash = Dash("board", server=app, requests_pathname_prefix="/app/", routes_pathname_prefix="/")
    dash.layout = html.Div()
    UserStoreMiddleware(dash)
    assert hits(app) == "3"


def received(app: Flask) -> list[int]:
    """How many cookies each of a new visitor's responses brings: two that use no store, and three that do."""
    client = app.test_client()
    return [len(client.get(path).headers.getlist("Set-Cookie")) for path in ("/nothing", "/none", "/", "/", "/nothing")]


def test_on_a_plain_flask_app_the_cookie_comes_with_the_first_use() -> None:
    app = make_app()
    UserStoreMiddleware(app)
    assert received(app) == [0, 0, 1, 0, 0]
    response = app.test_client().get("/nothing")
    assert {"Vary", "Cache-Control", "Set-Cookie"}.isdisjoint(response.headers.keys())


@pytest.mark.parametrize("is_given_dash", [True, False])
@pytest.mark.parametrize("is_dash_first", [True, False])
def test_where_dash_is_on_the_server_the_cookie_comes_with_the_first_response(
    is_given_dash: bool, is_dash_first: bool
) -> None:
    app = make_app()
    if is_given_dash:
        dash = Dash("board", server=app, url_base_pathname="/board/")
        UserStoreMiddleware(dash, cookie_path="/")
    elif is_dash_first:
        dash = Dash("board", server=app, url_base_pathname="/board/")
        UserStoreMiddleware(app)
    else:
        UserStoreMiddleware(app)
        dash = Dash("board", server=app, url_base_pathname="/board/")
    dash.layout = html.Div()
    assert received(app) == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(("is_eager", "expected"), [(True, [1, 0, 0, 0, 0]), (False, [0, 0, 1, 0, 0])])
def test_it_is_a_setting_too(is_eager: bool, expected: list[int]) -> None:
    app = make_app(USER_STORE_COOKIE_EAGER=is_eager)
    Dash("board", server=app, url_base_pathname="/board/").layout = html.Div()
    UserStoreMiddleware(app)
    assert received(app) == expected


# The clock


def test_what_replaces_time_time_is_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As freezegun and time-machine do it, whenever they come."""
    app = make_app(USER_STORE_TTL=100)
    stores = UserStoreMiddleware(app)
    client = app.test_client()
    assert client.get("/").text == "1"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 101)
    assert client.get("/").text == "1"
    user = stores.for_user("ada", ttl=10)
    user["k"] = 1
    monkeypatch.setattr(time, "time", lambda: real() + 200)
    assert dict(user) == {}
