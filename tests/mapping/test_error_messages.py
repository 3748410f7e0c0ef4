"""The most likely mistakes have messages that name the value, the limit and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, g

from flask_dash_store import UserStoreError, UserStoreMiddleware
from flask_dash_store.testing import user_store_context


def make_server() -> Flask:
    server = Flask("shop")
    server.secret_key = "0123456789abcdef0123456789abcdef"
    return server


@pytest.fixture
def app() -> Flask:
    app = make_server()
    UserStoreMiddleware(app, url="memory://", max_value_bytes=20_000, max_bytes=30_000, max_keys=2)
    return app


def store_too_much() -> None:
    g.user_store.update(a="x" * 15_000, b="x" * 16_000)


def store_too_many() -> None:
    g.user_store.update(a=1, b=2, c=3)


MISTAKES: list[tuple[Callable[[], Any], list[str]]] = [
    (lambda: g.user_store.set("f", lambda: 1), ["'f'", "a function", "Lambdas"]),
    (lambda: g.user_store.set("big", "x" * 30_000), ["'big'", "limit for a value is 20,000", "max_value_bytes="]),
    (store_too_much, ["may store 30,000", "are in use", "max_bytes="]),
    (store_too_many, ["2 keys that one session or user may have", "max_keys="]),
    (lambda: g.user_store.set("k", 1, ttl="soon"), ["A TTL must be", "'soon'"]),
    (lambda: g.user_store.set(1, 2), ["not int", "str(key)"]),
    (lambda: g.user_store.set("a/b", 2), ["'a/b' contains '/'"]),
    (lambda: g.user_store.edit("n", 0).__enter__(), ["edit('n')", "of type int", "transaction()", "increment()"]),
    (lambda: setattr(g.user_store, "cart", 1), ["store['cart'] = value", "store.edit(key)"]),
]


@pytest.mark.parametrize(("mistake", "words"), MISTAKES)
def test_a_mistake_has_a_message_that_says_what_is_wrong_and_what_helps(
    app: Flask, mistake: Callable[[], Any], words: list[str]
) -> None:
    with user_store_context(app), pytest.raises(UserStoreError) as raised:
        mistake()
    message = str(raised.value)
    assert [word for word in words if word not in message] == [], message


def test_a_ttl_that_is_no_duration_is_named_with_its_setting() -> None:
    must_be = "USER_STORE_TTL (ttl=) must be a number of seconds or a timedelta, not 'soon'"
    with pytest.raises(UserStoreError, match=re.escape(must_be)):
        UserStoreMiddleware(make_server(), ttl="soon")  # type: ignore[arg-type]
