"""Flask-Talisman: what it demands of Flask's cookie holds for the store's, from the first response on."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, g
from flask_talisman import Talisman
from shop import make_shop
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_dash_store import UserStoreAdmin, UserStoreMiddleware


def add_talisman(app: Flask, **options: Any) -> Flask:
    Talisman(app, **options)
    app.add_url_rule("/put", "put", lambda: str(g.user_store.update(n=1)))
    app.add_url_rule("/get", "get", lambda: str(g.user_store.get("n")))
    return app


def attributes(header: str) -> set[str]:
    return set(header.split("; ")[1:])


def test_http_is_redirected_and_https_brings_a_secure_cookie(app: Flask) -> None:
    client = add_talisman(app).test_client()
    redirected = client.get("/put")
    assert (redirected.status_code, redirected.headers["Location"]) == (302, "https://localhost/put")
    assert "Set-Cookie" not in redirected.headers
    response = client.get("/put", base_url="https://localhost")
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= attributes(response.headers["Set-Cookie"])
    assert client.get("/get", base_url="https://localhost").text == "1"


@pytest.mark.parametrize("has_proxy_fix", [True, False])
def test_behind_a_proxy_the_first_cookie_is_secure_already(app: Flask, has_proxy_fix: bool) -> None:
    add_talisman(app, session_cookie_samesite="Strict")
    if has_proxy_fix:
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    response = app.test_client().get("/put", headers={"X-Forwarded-Proto": "https"})
    assert {"Secure", "SameSite=Strict"} <= attributes(response.headers["Set-Cookie"])


def test_a_cookie_that_is_secure_is_not_sent_again_and_again(app: Flask) -> None:
    client = add_talisman(app).test_client()
    client.get("/put", base_url="https://localhost")
    assert all("Set-Cookie" not in client.get("/put", base_url="https://localhost").headers for _ in range(3))


def test_it_sets_what_is_set_already_with_each_request_which_costs_nothing(app: Flask) -> None:
    client = add_talisman(app).test_client()
    stores: UserStoreMiddleware = app.extensions["user_store"]
    for _ in range(2):
        client.get("/put", base_url="https://localhost")
    opened = stores.opened(app)
    client.get("/put", base_url="https://localhost")
    assert stores.opened(app) is opened


def test_without_its_secure_cookie_the_cookie_follows_the_scheme() -> None:
    app = add_talisman(make_shop(), force_https=False, session_cookie_secure=False)
    headers = [app.test_client().get("/put", base_url=f"{scheme}://localhost").headers for scheme in ("http", "https")]
    assert ["Secure" in attributes(each["Set-Cookie"]) for each in headers] == [False, True]


def test_the_admin_page_keeps_the_policy_with_which_it_works() -> None:
    app = make_shop()
    UserStoreAdmin(app, allow=lambda: True)
    client = add_talisman(app, force_https=False).test_client()
    headers = client.get("/user-store/").headers
    assert "script-src 'self' 'sha256-" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert client.get("/get").headers["Content-Security-Policy"] == "default-src 'self'; object-src 'none'"
