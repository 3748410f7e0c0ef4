"""Flask-Limiter by visitor(): visitors behind one address have limits of their own, clients without a cookie one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from flask_dash_store import user_store, visitor


def visitor_or_address() -> str:
    return get_remote_address() if user_store.is_new else visitor()


@pytest.fixture
def limited(app: Flask) -> Iterator[Flask]:
    limiter = Limiter(get_remote_address, app=app, application_limits=["12/hour"], storage_uri="memory://")

    @app.get("/search")
    @limiter.limit("2/hour", key_func=visitor_or_address)
    def search() -> str:
        return "found"

    @app.get("/by-name-alone")
    @limiter.limit("2/hour", key_func=visitor)
    def by_name_alone() -> str:
        return "found"

    app.add_url_rule("/begin", "begin", lambda: str(g.user_store.setdefault("n", 1)))
    app.add_url_rule("/log-in", "in", lambda: str(g.user_store.regenerate(user_id="ada")))
    yield app
    limiter.reset()


def statuses(client: FlaskClient, path: str, times: int) -> list[int]:
    return [client.get(path).status_code for _ in range(times)]


def begun(app: Flask) -> FlaskClient:
    client = app.test_client()
    client.get("/begin")
    return client


def test_visitors_behind_one_address_have_limits_of_their_own(limited: Flask) -> None:
    ada, bob = begun(limited), begun(limited)
    assert statuses(ada, "/search", 3) == [200, 200, 429]
    assert statuses(bob, "/search", 3) == [200, 200, 429]


def test_a_login_does_not_begin_the_limit_again(limited: Flask) -> None:
    client = begun(limited)
    assert statuses(client, "/search", 2) == [200, 200]
    client.get("/log-in")
    assert statuses(client, "/search", 1) == [429]


def test_clients_without_a_cookie_share_the_limit_of_their_address(limited: Flask) -> None:
    assert [status for _ in range(3) for status in statuses(limited.test_client(use_cookies=False), "/search", 1)] == [
        200, 200, 429,
    ]  # fmt: skip
    assert statuses(begun(limited), "/search", 1) == [200]


def test_a_new_visitor_gets_the_cookie_with_the_first_limited_response_and_is_known_by_it(limited: Flask) -> None:
    client = limited.test_client()
    assert statuses(client, "/search", 4) == [200, 200, 200, 429]


def test_by_the_name_alone_a_client_without_a_cookie_is_not_limited_and_so_the_address_has_to_be(
    limited: Flask,
) -> None:
    client = limited.test_client(use_cookies=False)
    assert statuses(client, "/by-name-alone", 13) == [200] * 12 + [429]


def test_to_collect_cookies_does_not_help_against_the_limit_of_the_address(limited: Flask) -> None:
    found = [status for _ in range(7) for status in statuses(begun(limited), "/search", 1)]
    assert found == [200] * 6 + [429]
