"""A browser that sends several cookies of one name is still one visitor.

It does so after a change of the cookie's path or domain, beside a sibling app, and where a sibling subdomain sets
cookies for the whole domain (RFC 6265, 5.4 and 8.6). flask.session takes the first one that its browser sends.
"""

from __future__ import annotations

from http.cookiejar import CookieJar
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.request import Request
from urllib.response import addinfourl

import pytest
from flask import Flask, g
from visits import SECRET, Browser, Site, read, write
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import create_environ, run_wsgi_app

from flask_dash_store import UserStore, UserStoreMiddleware

OTHER_SECRET = "fedcba9876543210fedcba9876543210"


class RealJar:
    """A browser's cookies as RFC 6265 has them: by name, domain and path, the longest path sent first."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.jar = CookieJar()

    def get(self, path: str) -> str:
        request = Request(f"http://shop.test{path}")
        self.jar.add_cookie_header(request)
        self.sent = request.get_header("Cookie") or ""
        environ = create_environ(path, "http://shop.test")
        body, status, headers = run_wsgi_app(self.app, environ | {"HTTP_COOKIE": self.sent}, buffered=True)
        assert status == "200 OK", status
        self.received = headers.getlist("Set-Cookie")
        message: Any = headers
        message.get_all = lambda name, default=None: headers.getlist(name) or default
        self.jar.extract_cookies(addinfourl(None, message, request.full_url), request)  # type: ignore[arg-type]
        return b"".join(body).decode()


def counter(root: str, secret: str = SECRET, **options: Any) -> Flask:
    app = Flask("shop")
    app.config.update(SECRET_KEY=secret, APPLICATION_ROOT=root, TESTING=True)
    UserStoreMiddleware(app, **{"url": "memory://", **options})
    app.add_url_rule("/", "count", lambda: str(g.user_store.increment("n")))
    app.add_url_rule("/login", "login", lambda: str(g.user_store.regenerate("ada")))
    app.add_url_rule("/logout", "logout", lambda: str(g.user_store.destroy()))
    return app


@pytest.mark.parametrize("secrets", [(SECRET, SECRET), (SECRET, OTHER_SECRET)])
@pytest.mark.parametrize("first", ["/", "/admin/"])
def test_two_apps_at_the_root_and_below_it_keep_each_its_visitors(secrets: tuple[str, str], first: str) -> None:
    site = DispatcherMiddleware(counter("/", secrets[0]), {"/admin": counter("/admin", secrets[1])})
    browser = RealJar(site)
    second = "/" if first == "/admin/" else "/admin/"
    assert [browser.get(path) for path in (first, second, first, second)] == ["1", "1", "2", "2"]
    for path, counts in {"/login": ["3", "3"], "/admin/login": ["4", "4"]}.items():
        browser.get(path)
        assert [browser.get(each) for each in ("/", "/admin/")] == counts
    browser.get("/logout")
    assert [browser.get(each) for each in ("/", "/admin/")] == ["1", "5"]
    assert browser.sent.count("user_store=") == 2


@pytest.mark.parametrize(("before", "after"), [("/", "/shop"), ("/shop", "/")])
def test_a_changed_cookie_path_loses_no_visitor_and_gives_one_new_cookie(
    tmp_path: Path, before: str, after: str
) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    old, new = (
        DispatcherMiddleware(Flask("none"), {"/shop": counter("/", url=url, cookie_path=path)})
        for path in (before, after)
    )
    browser = RealJar(old)
    assert [browser.get("/shop/") for _ in range(2)] == ["1", "2"]
    browser.app = new
    received = []
    for n in range(3, 9):
        assert browser.get("/shop/") == str(n)
        received += browser.received
    assert len(received) == 1
    assert browser.sent.count("user_store=") == 2
    browser.get("/shop/login")
    assert [browser.get("/shop/") for _ in range(2)] == ["9", "10"]
    browser.get("/shop/logout")
    assert [browser.get("/shop/") for _ in range(2)] == ["1", "2"]


# By the header


@pytest.fixture
def site(clock: Any, tmp_path: Path) -> Site:
    return Site(clock, tmp_path)


@pytest.fixture
def browser(site: Site) -> Browser:
    """One whose visitor has stored a name."""
    browser = Browser(site)
    browser.visit(write)
    return browser


def test_those_that_do_not_verify_are_ignored_wherever_they_are(site: Site, browser: Browser) -> None:
    junk = ["user_store=", "user_store=junk", f"{browser.cookie}x", f"user_store={'A' * 64}.AAAA.1.{'A' * 64}"]
    for header in permutations([browser.cookie, *junk]):
        both = Browser(site, "; ".join(header))
        assert (both.visit(read), both.cookies_received) == ("Ada", 0)


@pytest.mark.parametrize("times", [2, 50])
def test_equal_ones_are_one(site: Site, browser: Browser, times: int) -> None:
    repeated = Browser(site, "; ".join([browser.cookie] * times))
    assert (repeated.visit(read), repeated.cookies_received) == ("Ada", 0)


def test_of_several_valid_ones_the_last_issued_counts(
    site: Site, browser: Browser, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stale = browser.cookie
    clock.step(1)
    browser.visit(UserStore.regenerate)
    clock.step(1)
    stranger = Browser(site)
    stranger.visit()
    for header in permutations([stale, browser.cookie]):
        several = Browser(site, "; ".join(header))
        assert (several.visit(read), several.cookies_received) == ("Ada", 0)
    for header in permutations([stale, browser.cookie, stranger.cookie]):
        several = Browser(site, "; ".join(header))
        assert several.visit(lambda store: store.session_id) == stranger.id
    assert caplog.messages == []


def test_of_two_issued_in_one_second_the_first_counts_and_that_is_logged_once(
    site: Site, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    other = Browser(site)
    other.visit()
    for _ in range(3):
        both = Browser(site, f"{browser.cookie}; {other.cookie}")
        assert (both.visit(read), both.cookies_received) == ("Ada", 0)
    [message] = caplog.messages
    assert "two valid cookies user_store" in message
    assert browser.id[:20] not in message
