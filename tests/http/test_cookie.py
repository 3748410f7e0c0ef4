"""Only the app can make its cookie: any other text that a browser sends is a new visitor.

Promises: docs/security.md, "The cookie". Flask signed with a fallback key instead of the current one (CVE-2025-47278).
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import apsw
import pytest
from dash import Dash, html
from flask import Flask, g, session
from hostile_cookies import mutations
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import create_environ, run_wsgi_app

from flask_dash_store import UserStoreMiddleware

SECRET = "0123456789abcdef0123456789abcdef"
OTHER_SECRET = "fedcba9876543210fedcba9876543210"


def make_app(url: str = "sqlite://:memory:", **config: Any) -> Flask:
    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=url)
    app.config.update(config)
    app.add_url_rule("/", "read", lambda: g.user_store.get("name", "nobody"))
    app.add_url_rule("/write", "write", lambda: g.user_store.update(name="Ada") or "written")
    return app


def installed(url: str = "sqlite://:memory:", options: dict[str, Any] | None = None, **config: Any) -> Flask:
    app = make_app(url, **config)
    UserStoreMiddleware(app, **(options or {}))
    return app


def get(app: Any, cookie: str | None = None, path: str = "/", **environ: Any) -> tuple[str, str, list[str]]:
    """The status, the text and the Set-Cookie headers that a raw Cookie header brings."""
    crumbs = {} if cookie is None else {"HTTP_COOKIE": cookie}
    body, status, headers = run_wsgi_app(app, create_environ(path) | crumbs | environ, buffered=True)
    return status, b"".join(body).decode(), headers.getlist("Set-Cookie")


def issue(app: Any, path: str = "/write", **environ: Any) -> tuple[str, dict[str, str]]:
    """A new visitor's cookie, and its attributes by their lower-case names; Expires only repeats Max-Age."""
    _, _, [cookie] = get(app, None, path, **environ)
    crumb, *attributes = cookie.split("; ")
    pairs = [attribute.partition("=") for attribute in attributes if not attribute.startswith("Expires")]
    assert len({name.lower() for name, _, _ in pairs}) == len(pairs)
    return crumb, {name.lower(): value for name, _, value in pairs}


# Attributes


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"path": "/", "samesite": "Lax"}),
        ({"APPLICATION_ROOT": "/shop"}, {"path": "/shop"}),
        ({"APPLICATION_ROOT": "/shop", "SESSION_COOKIE_PATH": "/s"}, {"path": "/s"}),
        ({"SESSION_COOKIE_PATH": "/s", "USER_STORE_COOKIE_PATH": "/u"}, {"path": "/u"}),
        ({"SESSION_COOKIE_DOMAIN": "example.com"}, {"domain": "example.com"}),
        ({"SESSION_COOKIE_DOMAIN": "example.com", "USER_STORE_COOKIE_DOMAIN": "a.org"}, {"domain": "a.org"}),
        ({"USER_STORE_COOKIE_SAMESITE": "Strict"}, {"samesite": "Strict"}),
        ({"USER_STORE_COOKIE_SECURE": True}, {"secure": ""}),
        ({"USER_STORE_COOKIE_SAMESITE": "None"}, {"samesite": "None", "secure": ""}),
        ({"USER_STORE_COOKIE_PARTITIONED": True}, {"partitioned": "", "secure": ""}),
        ({"USER_STORE_COOKIE_NAME": "__Secure-s"}, {"secure": ""}),
        ({"USER_STORE_COOKIE_NAME": "__Host-s", "APPLICATION_ROOT": "/shop"}, {"secure": "", "path": "/"}),
        ({"USER_STORE_COOKIE_NAME": "__Host-s", "SESSION_COOKIE_DOMAIN": "example.com"}, {"secure": "", "path": "/"}),
        ({"USER_STORE_LIFETIME": 90}, {"max-age": "90"}),
    ],
)
def test_the_cookie_has_the_attributes_that_are_set_and_no_other(
    config: dict[str, Any], expected: dict[str, str]
) -> None:
    crumb, attributes = issue(installed(**config))
    assert crumb.startswith(config.get("USER_STORE_COOKIE_NAME", "user_store") + "=")
    always = {"httponly": "", "path": "/", "samesite": "Lax", "max-age": str(31 * 86400)}
    assert attributes == always | expected


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, "/"),
        ({"url_base_pathname": "/board/"}, "/board"),
        ({"requests_pathname_prefix": "/proxied/board/", "routes_pathname_prefix": "/board/"}, "/proxied/board"),
    ],
)
def test_the_cookie_of_a_dash_app_has_the_path_under_which_browsers_see_it(options: dict[str, str], path: str) -> None:
    app = Dash("board", server=make_app(), **options)
    app.layout = html.Div()
    UserStoreMiddleware(app)
    assert issue(app, options.get("routes_pathname_prefix", path))[1]["path"] == path


@pytest.mark.parametrize(("secure", "is_secure"), [(None, {"http": False, "https": True}), (False, {}), (True, {})])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_secure_follows_the_scheme_of_the_request_unless_it_is_set(secure: Any, is_secure: Any, scheme: str) -> None:
    app = installed(USER_STORE_COOKIE_SECURE=secure)
    attributes = issue(app, **{"wsgi.url_scheme": scheme})[1]
    assert ("secure" in attributes) is is_secure.get(scheme, secure)


@pytest.mark.parametrize("is_outside", [False, True])
def test_behind_a_proxy_the_scheme_is_the_browsers_on_whichever_side_proxyfix_is(is_outside: bool) -> None:
    app = make_app()
    if not is_outside:
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    UserStoreMiddleware(app)
    if is_outside:
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    assert "secure" in issue(app, HTTP_X_FORWARDED_PROTO="https")[1]
    assert "secure" not in issue(app)[1]


def test_a_session_id_is_384_random_bits_that_differ_each_time() -> None:
    app = installed()
    ids = [issue(app)[0].removeprefix("user_store=").partition(".")[0] for _ in range(300)]
    bits = [int.from_bytes(base64.urlsafe_b64decode(text), "big") for text in ids]
    assert {len(base64.urlsafe_b64decode(text)) for text in ids} == {48}
    assert len(set(ids)) == 300
    for bit in range(384):  # A bit that is fixed would have been the same 300 times.
        assert 0 < sum(number >> bit & 1 for number in bits) < 300


def test_name_and_value_of_the_cookie_take_far_less_than_the_4096_bytes_that_browsers_keep() -> None:
    assert len(issue(installed(USER_STORE_COOKIE_NAME="__Secure-user_store"))[0]) < 200


# Rotation of keys


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.sqlite"


@pytest.mark.parametrize("old", [OTHER_SECRET, OTHER_SECRET.encode()])
def test_an_old_key_is_read_while_it_is_a_fallback_and_its_data_too(url: str, old: Any) -> None:
    cookie, _ = issue(installed(url, SECRET_KEY=old))
    assert get(installed(url, SECRET_KEY_FALLBACKS=["another" * 5, old]), cookie)[:2] == ("200 OK", "Ada")
    status, text, set_cookie = get(installed(url), cookie)
    assert (status, text, len(set_cookie)) == ("200 OK", "nobody", 1)


def test_the_current_key_signs(url: str) -> None:
    cookie, _ = issue(installed(url, SECRET_KEY_FALLBACKS=[OTHER_SECRET]))
    assert get(installed(url), cookie) == ("200 OK", "Ada", [])
    assert get(installed(url, SECRET_KEY=OTHER_SECRET), cookie)[1] == "nobody"


@pytest.mark.parametrize("fallbacks", [None, [], ()])
def test_an_empty_list_of_fallbacks_is_not_an_error(fallbacks: Any) -> None:
    issue(installed(SECRET_KEY_FALLBACKS=fallbacks))


# What is not a cookie of ours


def test_a_changed_foreign_or_huge_cookie_is_a_new_visitor_and_costs_no_storage(url: str, tmp_path: Path) -> None:
    app = installed(url)
    crumb, _ = issue(app)
    headers = set(mutations(crumb)) - {crumb}
    assert len(headers) > 2500
    new = set()
    for header in headers:
        status, text, set_cookie = get(app, header)
        assert (status, text, len(set_cookie)) == ("200 OK", "nobody", 1), header[:300]
        new.add(set_cookie[0])
    assert len(new) == len(headers)
    assert get(app, crumb) == ("200 OK", "Ada", [])
    assert apsw.Connection(f"{tmp_path}/store.sqlite").execute('SELECT COUNT(*) FROM "sessions"').get == 1


def test_a_cookie_that_another_app_with_the_same_key_or_flask_itself_has_signed_is_a_new_visitor() -> None:
    app = installed()
    app.add_url_rule("/flask", "flask", lambda: session.update(name="x") or "")
    session_cookie = next(cookie for cookie in get(app, path="/flask")[2] if cookie.startswith("session="))
    value = session_cookie.partition("=")[2].partition(";")[0]
    assert len(get(app, f"user_store={value}")[2]) == 1
    crumb, _ = issue(installed(SECRET_KEY=OTHER_SECRET))
    assert len(get(app, crumb)[2]) == 1


def test_flask_takes_no_cookie_of_the_store_for_its_own() -> None:
    app = installed()
    app.add_url_rule("/flask", "flask", lambda: str(dict(session)))
    value = issue(app)[0].partition("=")[2]
    assert get(app, f"session={value}", "/flask")[1] == "{}"


def test_among_other_cookies_the_visitors_is_found() -> None:
    app = installed()
    crumb, _ = issue(app)
    for header in (
        f"a=b; {crumb}; c=d",
        f"a=b;{crumb};c",
        f"xuser_store=1; {crumb}",
        f'q="a\xe9"; {crumb}; ',
        f"{crumb};",
    ):
        assert get(app, header.format(crumb)) == ("200 OK", "Ada", [])


LATIN = st.text(st.characters(max_codepoint=0xFF))
PARTS = st.one_of(LATIN, LATIN.map("user_store={}".format), st.sampled_from(["<ours>", "<cut>", ";", "; ", '"']))


@pytest.fixture(scope="module")
def app_and_cookie() -> tuple[Flask, str]:
    app = installed()
    return app, issue(app)[0]


@given(parts=st.lists(PARTS, max_size=6))
@settings(max_examples=400, deadline=None)
def test_no_cookie_header_whatever_it_holds_is_an_error(app_and_cookie: tuple[Flask, str], parts: list[str]) -> None:
    app, crumb = app_and_cookie
    header = "".join({"<ours>": crumb, "<cut>": crumb[:60]}.get(part, part) for part in parts)
    status, text, set_cookie = get(app, header)
    assert status == "200 OK"
    assert (text, len(set_cookie)) in [("Ada", 0), ("nobody", 1)]
    if text == "Ada":  # then it is there, whole
        assert re.search(rf"(?:^|;)[ \t]*{re.escape(crumb)}[ \t]*(?:;|$)", header)


# A log entry for the mistake of one key in each worker


def test_a_cookie_that_was_signed_with_another_key_is_logged_once_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = installed()
    for _ in range(3):
        crumb, _ = issue(installed(SECRET_KEY=OTHER_SECRET))
        assert get(app, crumb)[1] == "nobody"
    [message] = caplog.messages
    assert "not signed with this SECRET_KEY" in message
    assert "same in all workers" in message


def test_cookies_that_are_no_sign_of_another_key_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = installed(SECRET_KEY_FALLBACKS=[OTHER_SECRET])
    crumb, _ = issue(installed(SECRET_KEY=OTHER_SECRET))
    of_a_sibling_app, _ = issue(installed(SECRET_KEY="another app's key", USER_STORE_COOKIE_PATH="/sibling"))
    for cookie in (crumb, of_a_sibling_app, "user_store=nonsense", "user_store="):
        get(app, cookie)
    assert caplog.messages == []
