"""Authlib: its OAuth dance over flask.session, against a provider on a server of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from authlib.integrations.base_client import MismatchingStateError
from authlib.integrations.flask_client import OAuth
from flask import Flask, g, jsonify, redirect, request, session, url_for
from flask.testing import FlaskClient
from shop import make_shop, served, twin


def make_provider() -> Flask:
    """An OAuth 2 provider, whose only user agrees to everything."""
    provider = Flask("provider")
    codes: dict[str, str] = {}  # what PKCE's verifier has to be is not looked at

    @provider.get("/authorize")
    def authorize() -> Any:
        code = secrets.token_urlsafe()
        codes[code] = request.args["redirect_uri"]
        return redirect(f"{request.args['redirect_uri']}?{urlencode({'code': code, 'state': request.args['state']})}")

    @provider.post("/token")
    def token() -> Any:
        if codes.pop(request.form["code"], None) != request.form["redirect_uri"]:
            return jsonify(error="invalid_grant"), 400
        return jsonify(access_token="the token", token_type="Bearer", expires_in=3600)

    @provider.get("/me")
    def me() -> Any:
        return jsonify(name="ada") if request.headers["Authorization"] == "Bearer the token" else ("", 401)

    return provider


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    with served(make_provider()) as url:
        yield url


def add_oauth(app: Flask, provider: str) -> Flask:
    oauth = OAuth(app)
    oauth.register(
        "local", client_id="shop", client_secret="only for tests", api_base_url=provider,
        authorize_url=f"{provider}/authorize", access_token_url=f"{provider}/token",
    )  # fmt: skip

    @app.get("/in")
    def log_in() -> Any:
        return oauth.local.authorize_redirect(url_for("come_back", _external=True))

    @app.get("/come-back")
    def come_back() -> Any:
        try:
            token = oauth.local.authorize_access_token()
        except MismatchingStateError:
            return "no such login", 400
        user = oauth.local.get("me", token=token).json()["name"]
        g.user_store.regenerate(user_id=user)
        session["_user_id"] = user
        g.user_store["token"] = token
        return f"Hello {user}"

    app.add_url_rule("/cart", "cart", lambda: g.user_store.setdefault("cart", "books"))
    app.add_url_rule("/session", "session", lambda: dict(session))
    return app


@pytest.fixture
def browser(app: Flask, provider: str) -> FlaskClient:
    return add_oauth(app, provider).test_client()


def agree(client: FlaskClient) -> str:
    """Begin a login, and agree at the provider. Returns where that sends the browser back to."""
    at_provider = client.get("/in").headers["Location"]
    return requests.get(at_provider, allow_redirects=False, timeout=10).headers["Location"]


def test_a_login_at_the_provider_keeps_the_values_and_renews_the_id(browser: FlaskClient) -> None:
    browser.get("/cart")
    way_back = agree(browser)
    planted = twin(browser)
    assert browser.get(way_back).text == "Hello ada"
    stores = browser.application.extensions["user_store"]
    assert len(stores.sessions("ada")) == 1
    assert browser.get("/cart").text == "books"
    assert [key for key in browser.get("/session").get_json() if key.startswith("_state")] == []
    with planted:
        planted.get("/cart")
        assert "token" not in g.user_store


def test_an_answer_that_this_browser_has_not_asked_for_is_refused(browser: FlaskClient) -> None:
    way_back = agree(browser)
    stranger = browser.application.test_client()
    assert stranger.get(way_back).status_code == 400
    assert browser.get(way_back).text == "Hello ada"
    assert browser.get(way_back).status_code == 400


def test_logins_that_are_begun_in_two_tabs_at_once_can_both_be_finished(provider: str) -> None:
    app = add_oauth(make_shop(), provider)
    app.add_url_rule("/begin", "begin", lambda: str(session.setdefault("begun", True)))
    first = app.test_client()
    first.get("/begin")
    second = twin(first)
    ways_back = [agree(first), agree(second)]
    assert [first.get(way).text for way in ways_back] == ["Hello ada", "Hello ada"]
