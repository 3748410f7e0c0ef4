"""The cookie of an app that pages of other sites show in an iframe, and what is warned of where it cannot come back.

That browsers do as is said here is shown in tests/browser/test_embedded.py.
Promise: docs/security.md, "Embedded in other sites".
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from clocks import HandClock
from flask import Flask, g, session
from visits import SECRET, SITES, Browser, Site, nothing, read, write

from flask_dash_store import ConfigurationError, UserStore, UserStoreMiddleware

IFRAME = {
    "HTTP_SEC_FETCH_SITE": "cross-site",
    "HTTP_SEC_FETCH_DEST": "iframe",
    "HTTP_SEC_FETCH_MODE": "navigate",
}
PLAIN_HTTP = {"HTTP_UPGRADE_INSECURE_REQUESTS": "1"}
UNPARTITIONED = {"cookie_samesite": "None", "cookie_secure": True}


def make_app(**config: Any) -> Flask:
    app = Flask("site")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", TESTING=True)
    app.config.update(config)
    app.add_url_rule("/", "count", lambda: str(g.user_store.increment("n")))
    app.add_url_rule("/n", "session", lambda: str(session.update(n=session.get("n", 0) + 1) or session["n"]))
    app.add_url_rule("/write", "write", lambda: str(session.update(n=0)), methods=["POST"])
    return app


@pytest.mark.parametrize("flask_session", [False, True])
@pytest.mark.parametrize("config", [{}, {"SESSION_COOKIE_SAMESITE": "Lax"}, {"SESSION_COOKIE_SECURE": False}])
def test_embedded_sets_what_browsers_demand_of_a_cookie_in_an_iframe_whatever_flask_sets(
    config: dict[str, Any], flask_session: bool
) -> None:
    app = make_app(USER_STORE_EMBEDDED=True, **config)
    UserStoreMiddleware(app, flask_session=flask_session)
    cookie = app.test_client().get("/n" if flask_session else "/").headers["Set-Cookie"]
    assert cookie.startswith("session=" if flask_session else "user_store=")
    assert {"Secure", "SameSite=None", "Partitioned", "HttpOnly"} <= set(cookie.split("; "))


@pytest.mark.parametrize(
    "option", [{"cookie_samesite": "Lax"}, {"cookie_secure": False}, {"cookie_partitioned": False}, {"embedded": "yes"}]
)
def test_what_browsers_would_refuse_in_an_iframe_is_an_error_that_names_the_setting(option: dict[str, Any]) -> None:
    [name] = option
    with pytest.raises(ConfigurationError, match=f"USER_STORE_{name.upper()}"):
        UserStoreMiddleware(make_app(), **{"embedded": True} | option)


# What SameSite=Lax protects from


@pytest.mark.parametrize("use", [read, write, UserStore.destroy])
def test_the_session_is_kept_from_requests_of_other_sites_that_lax_would_keep_it_from(
    clock: HandClock, tmp_path: Path, use: Any
) -> None:
    browser = Browser(Site(clock, tmp_path, embedded=True))
    browser.visit(write)
    forged = browser.in_flight()
    assert forged.visit(dict, method="POST", HTTP_SEC_FETCH_SITE="cross-site") == {}
    forged.visit(use, method="POST", HTTP_SEC_FETCH_SITE="cross-site")
    assert browser.visit(read) == "Ada"


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize(
    ("origin", "is_own"),
    [
        ("http://shop.example", True),
        ("https://shop.example:8443", True),
        ("http://SHOP.example", True),
        ("http://evil.example", False),
        ("http://shop.example.evil.example", False),
        ("http://shop.example@evil.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
        ("shop.example", False),
    ],
)
def test_a_websocket_has_the_session_for_pages_of_its_own_host_alone(
    clock: HandClock, tmp_path: Path, kind: type[Site], origin: str, is_own: bool
) -> None:
    browser = Browser(kind(clock, tmp_path, embedded=True))
    browser.visit(write)
    socket = {"HTTP_HOST": "shop.example", "HTTP_ORIGIN": origin}  # Chromium's has no Fetch Metadata
    assert browser.in_flight().visit(read, **socket) == ("Ada" if is_own else None)


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize("mode", ["no-cors", "cors", "websocket"])
def test_what_the_embedding_page_fetches_finds_no_session(
    clock: HandClock, tmp_path: Path, kind: type[Site], mode: str
) -> None:
    browser = Browser(kind(clock, tmp_path, embedded=True))
    browser.visit(write)
    fetched = browser.in_flight()
    assert fetched.visit(dict, HTTP_SEC_FETCH_SITE="cross-site", HTTP_SEC_FETCH_MODE=mode) == {}
    assert fetched.cookies_received == 0


def log_in(store: UserStore) -> None:
    store.regenerate(user_id="attacker")


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize("use", [write, log_in, UserStore.destroy])
@pytest.mark.parametrize(
    ("dest", "cookies"), [("empty", 0), ("image", 0), ("iframe", 0), ("websocket", 0), ("document", 1)]
)
def test_a_forged_login_does_not_replace_the_session_of_the_iframe(
    clock: HandClock, tmp_path: Path, kind: type[Site], use: Any, dest: str, cookies: int
) -> None:
    browser = Browser(kind(clock, tmp_path, embedded=True))
    browser.visit(write)
    forged = browser.in_flight()
    mode = "navigate" if dest in ("iframe", "document") else "no-cors"
    fetch = {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_SEC_FETCH_MODE": mode, "HTTP_SEC_FETCH_DEST": dest}
    forged.visit(use, method="POST", **fetch)
    assert forged.cookies_received == (0 if use is UserStore.destroy else cookies)
    assert browser.visit(read) == "Ada"


def test_it_is_there_for_the_iframe_and_for_what_that_sends_to_its_own_app(clock: HandClock, tmp_path: Path) -> None:
    browser = Browser(Site(clock, tmp_path, embedded=True))
    browser.visit(write)
    assert browser.visit(read, **IFRAME) == "Ada"
    for fetch_site in ("same-origin", "same-site", "none"):
        assert browser.visit(read, method="POST", HTTP_SEC_FETCH_SITE=fetch_site) == "Ada"
    assert browser.visit(read, method="POST") == "Ada"  # A client that is no browser sends no Fetch Metadata.


def test_flasks_session_is_kept_from_them_too() -> None:
    app = make_app()
    UserStoreMiddleware(app, flask_session=True, embedded=True)
    client = app.test_client(use_cookies=False)
    cookie = client.get("/n").headers["Set-Cookie"].partition(";")[0]
    client.post("/write", headers={"Cookie": cookie, "Sec-Fetch-Site": "cross-site"})
    assert client.get("/n", headers={"Cookie": cookie}).text == "2"


# Warnings


@pytest.mark.parametrize(
    ("options", "environ", "says"),
    [
        ({}, IFRAME, "another site.*SameSite=Lax.*embedded=True"),
        ({"cookie_samesite": "Strict"}, IFRAME, "SameSite=Strict.*embedded=True"),
        (UNPARTITIONED, IFRAME | {"HTTP_SEC_FETCH_STORAGE_ACCESS": "none"}, "embedded=True"),
        ({"embedded": True}, PLAIN_HTTP, "plain http.*embedded.*https.*localhost"),
        ({"cookie_secure": True}, PLAIN_HTTP, "plain http.*https"),
    ],
)
def test_a_page_whose_cookie_cannot_come_back_is_one_warning_with_the_remedy(
    clock: HandClock, tmp_path: Path, caplog: Any, options: dict[str, Any], environ: dict[str, str], says: str
) -> None:
    site = Site(clock, tmp_path, **options)
    for _ in range(3):
        Browser(site).visit(nothing, **environ)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(says, record.getMessage())


@pytest.mark.parametrize(
    ("options", "environ"),
    [
        ({"embedded": True}, IFRAME),
        ({"embedded": True}, IFRAME | {"HTTP_SEC_FETCH_STORAGE_ACCESS": "none"}),
        (UNPARTITIONED, IFRAME | {"HTTP_SEC_FETCH_STORAGE_ACCESS": "active"}),
        ({}, IFRAME | {"HTTP_SEC_FETCH_SITE": "same-site"}),  # localhost on another port
        ({}, IFRAME | {"HTTP_SEC_FETCH_DEST": "document"}),  # a link
        ({}, PLAIN_HTTP),
        ({"embedded": True}, {}),  # curl, a health check
        (
            {"embedded": True},
            PLAIN_HTTP | {"HTTP_SEC_FETCH_SITE": "none"},
        ),  # localhost, or behind a proxy that ends TLS
        ({"embedded": True}, PLAIN_HTTP | {"wsgi.url_scheme": "https"}),
    ],
)
def test_nothing_is_warned_of_where_the_cookie_comes_back(
    clock: HandClock, tmp_path: Path, caplog: Any, options: dict[str, Any], environ: dict[str, str]
) -> None:
    Browser(Site(clock, tmp_path, **options)).visit(nothing, **environ)
    assert caplog.records == []
