"""Flask-Caching by visitor(): nothing that is cached for one visitor is given to another, in either order."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, g, request
from flask.testing import FlaskClient
from flask_caching import Cache

from flask_dash_store import user_store, visitor


def of_this_visitor(*args: Any, **kwargs: Any) -> str:
    return f"{visitor()} {request.full_path}"


@pytest.fixture
def cached(app: Flask) -> Flask:
    cache = Cache(app, config={"CACHE_TYPE": "SimpleCache", "CACHE_DEFAULT_TIMEOUT": 60})

    @app.get("/page")
    @cache.cached(make_cache_key=of_this_visitor, unless=lambda: user_store.is_new)
    def page() -> str:
        return f"{g.user_store.get('name')} {request.args.get('q')} {g.user_store.increment('computed')}"

    @cache.memoize()
    def report(visitor: str, year: int) -> str:
        return f"{g.user_store.get('name')} {year} {g.user_store.increment('computed')}"

    app.add_url_rule("/report/<int:year>", "report", lambda year: report(visitor(), year))
    app.add_url_rule("/name/<name>", "name", lambda name: str(g.user_store.update(name=name)))
    app.add_url_rule("/log-in/<user>", "in", lambda user: str(g.user_store.regenerate(user_id=user)))
    app.add_url_rule("/log-out", "out", lambda: str(g.user_store.destroy()))
    return app


def named(app: Flask, name: str) -> FlaskClient:
    client = app.test_client()
    client.get(f"/name/{name}")
    return client


PATHS = ["/page", "/page?q=1", "/report/2024"]


@pytest.mark.parametrize("order", [["ada", "bob"], ["bob", "ada"]])
@pytest.mark.parametrize("path", PATHS)
def test_two_visitors_are_given_each_their_own_in_both_orders(cached: Flask, path: str, order: list[str]) -> None:
    clients = {name: named(cached, name) for name in order}
    first = {name: client.get(path).text for name, client in clients.items()}
    again = {name: client.get(path).text for name, client in clients.items()}
    assert all(first[name].startswith(name) for name in order)
    assert again == first  # from the cache


@pytest.mark.parametrize("path", PATHS)
def test_a_visitor_without_a_cookie_is_given_nothing_of_others_and_leaves_them_nothing(
    cached: Flask, path: str
) -> None:
    assert cached.test_client().get(path).text.startswith("None")
    assert named(cached, "ada").get(path).text.startswith("ada")
    assert cached.test_client().get(path).text.startswith("None")


@pytest.mark.parametrize("path", PATHS)
def test_after_a_logout_or_the_login_of_another_user_nothing_cached_is_given(cached: Flask, path: str) -> None:
    client = named(cached, "ada")
    client.get("/log-in/ada")
    assert client.get(path).text.startswith("ada")
    client.get("/log-in/bob")
    assert client.get(path).text.startswith("None")
    client.get("/name/bob")
    client.get("/log-out")
    assert client.get(path).text.startswith("None")


def test_a_page_from_the_cache_varies_by_cookie_too_and_brings_no_cookie_of_another(cached: Flask) -> None:
    client = named(cached, "ada")
    computed, from_the_cache = client.get("/page"), client.get("/page")
    assert computed.text == from_the_cache.text
    assert [response.headers["Vary"] for response in (computed, from_the_cache)] == ["Cookie"] * 2
    assert [response.headers.get("Set-Cookie") for response in (computed, from_the_cache)] == [None, None]
