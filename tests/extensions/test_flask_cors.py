"""Flask-CORS: a page of another origin has the visitor's store, and no cache mixes up origins or visitors."""

from __future__ import annotations

import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from flask_cors import CORS
from shop import make_shop
from werkzeug.http import parse_list_header
from werkzeug.test import TestResponse

ORIGINS = ["https://one.example", "https://two.example"]


@pytest.fixture(params=[True, False], ids=["session in the store", "session in Flask's cookie"])
def client(request: pytest.FixtureRequest) -> FlaskClient:
    app = make_shop(request.param, SESSION_COOKIE_SAMESITE="None", SESSION_COOKIE_SECURE=True)
    CORS(app, origins=ORIGINS, supports_credentials=True)
    app.add_url_rule("/n", "n", lambda: str(g.user_store.increment("n")), methods=["POST"])
    app.add_url_rule("/read", "read", lambda: str(g.user_store.get("n")))
    return app.test_client()


def ask(client: FlaskClient, method: str, path: str, origin: str = ORIGINS[0]) -> TestResponse:
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Access-Control-Request-Method": "POST"}
    return client.open(path, method=method, headers=headers, base_url="https://shop.example")


def vary(response: TestResponse) -> set[str]:
    return {name for value in response.headers.getlist("Vary") for name in parse_list_header(value)}


def test_requests_of_another_origin_come_with_the_visitors_cookie(client: FlaskClient) -> None:
    response = ask(client, "POST", "/n")
    assert {"SameSite=None", "Secure"} <= set(response.headers["Set-Cookie"].split("; "))
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert [ask(client, "POST", "/n", origin).text for origin in ORIGINS] == ["2", "3"]


def test_responses_vary_by_cookie_and_by_origin(client: FlaskClient) -> None:
    responses = [ask(client, "POST", "/n"), ask(client, "GET", "/read")]
    assert [vary(response) for response in responses] == [{"Cookie", "Origin"}] * 2
    assert [response.headers["Access-Control-Allow-Origin"] for response in responses] == [ORIGINS[0]] * 2


def test_a_preflight_begins_no_session(client: FlaskClient) -> None:
    response = ask(client, "OPTIONS", "/n")
    assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[0]
    assert "Set-Cookie" not in response.headers


def test_an_origin_that_is_not_named_may_not_read_the_response(client: FlaskClient) -> None:
    assert "Access-Control-Allow-Origin" not in ask(client, "GET", "/read", "https://other.example").headers


def test_an_error_that_a_visitor_gets_can_be_read_and_varies_too() -> None:
    app: Flask = make_shop(SESSION_COOKIE_SAMESITE="None", SESSION_COOKIE_SECURE=True)
    CORS(app, origins=ORIGINS, supports_credentials=True)
    app.add_url_rule("/late", "late", lambda: str(g.user_store.destroy()) + str(g.user_store.update(n=1)))
    response = ask(app.test_client(), "GET", "/late")
    assert response.status_code == 409
    assert vary(response) == {"Cookie", "Origin"}
    assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[0]
