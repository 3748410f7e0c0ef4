"""A declared key: one name for the key, its default and its TTL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clocks import HandClock
from flask import Flask

from flask_dash_store import (
    ConfigurationError,
    InvalidKey,
    InvalidKeyType,
    InvalidTTL,
    Key,
    UserStoreMiddleware,
    user_store,
)
from flask_dash_store.testing import user_store_context


@pytest.fixture(autouse=True)
def visitor(clock: HandClock) -> Iterator[None]:
    app = Flask("keys")
    app.secret_key = "k" * 32
    UserStoreMiddleware(app, clock=clock)
    with user_store_context(app):
        yield


def test_its_methods_are_those_of_the_store_with_its_name_and_default() -> None:
    cart: Key[list[str]] = Key("cart", default=list)
    assert cart.get() == []
    assert cart.name not in user_store
    with cart.edit() as items:
        items.append("apple")
    assert cart.get() == user_store["cart"] == ["apple"]
    cart.set(["pear"])
    with pytest.raises(LookupError), cart.edit() as items:
        items.append("never stored")
        raise LookupError
    assert cart.get() == ["pear"]
    cart.delete()
    cart.delete()
    assert cart.get() == []
    assert repr(cart) == "Key('cart')"


def test_what_is_stored_as_none_is_not_the_default() -> None:
    choice: Key[int | None] = Key("choice", default=lambda: 5)
    assert choice.get() == 5
    choice.set(None)
    assert choice.get() is None


def test_the_ttl_begins_with_what_is_stored_first_and_with_set(clock: HandClock) -> None:
    cart: Key[list[str]] = Key("cart", default=list, ttl=10)
    with cart.edit() as items:
        items.append("apple")
    clock.step(9)
    with cart.edit() as items:
        items.append("pear")
    clock.step(1)
    assert cart.get() == []
    cart.set(["apple"])
    clock.step(9)
    cart.set(cart.get())
    clock.step(9)
    assert cart.get() == ["apple"]
    clock.step(1)
    assert cart.get() == []


def test_a_wrong_name_and_a_wrong_ttl_are_errors_where_they_are_declared() -> None:
    with pytest.raises(InvalidKey):
        Key("a/b", default=list)
    with pytest.raises(InvalidKeyType):
        Key(5, default=list)  # type: ignore[arg-type]
    with pytest.raises(InvalidTTL):
        Key("cart", default=list, ttl=0)


def test_a_default_that_is_a_value_and_not_a_function_is_an_error_where_it_is_declared() -> None:
    with pytest.raises(ConfigurationError, match=r"Key\('cart'\) must be a function .* such as list .* not a list"):
        Key("cart", default=[])  # type: ignore[arg-type]
