"""What a store tells of its values without reading them: describe(), and a repr() that can be looked at anywhere."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest
from clocks import HandClock
from flask import Flask
from visits import TTL, Browser, Site, nothing, write

from flask_dash_store import StoredValue, UserStore, UserStoreMiddleware, user_store


def stores_at(url: str, clock: HandClock) -> UserStoreMiddleware:
    app = Flask(__name__)
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url=url, clock=clock)


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise AssertionError('a value was read')",)


def test_each_value_is_described_with_its_bytes_its_kind_and_its_own_expiry(url: str, clock: HandClock) -> None:
    stores = stores_at(url, clock)
    store = stores.for_user("ann")
    store["trap"] = Trap()
    store.set("text", "a" * 200_000, ttl=60)
    trap, text = store.describe()
    assert (trap.key, trap.kind, trap.expires_at) == ("trap", "small", None)
    assert text == StoredValue("text", text.nbytes, "large", datetime.fromtimestamp(clock() + 60, UTC))
    assert text.nbytes > 200_000
    assert trap.nbytes + text.nbytes == store.nbytes
    assert stores.for_user("ben").describe() == []
    stores.close()


def test_neither_describe_nor_repr_keeps_a_session_alive(tmp_path: Path, clock: HandClock) -> None:
    site = Site(clock, tmp_path)
    browser = Browser(site)
    browser.visit(write)
    before = site.stored_expiries()
    clock.step(TTL / 2)
    assert [value.key for value in browser.visit(UserStore.describe)] == ["name"]
    assert "'name'" in browser.visit(repr)
    assert site.stored_expiries() == before


def test_repr_names_some_keys_and_no_value(url: str, clock: HandClock) -> None:
    stores = stores_at(url, clock)
    store = stores.for_user("ann")
    assert repr(store) == "<UserStore u.ann… []>"
    store["cart"] = "a secret"
    assert repr(store) == "<UserStore u.ann… ['cart']>"
    store.update(dict.fromkeys(map(str, range(1000))))
    assert repr(store) == "<UserStore u.ann… ['cart', '0', '1', '2', '3', '4', '5', '6', '7', '8', …]>"
    stores.close()
    assert repr(store) == "<UserStore u.ann… StorageClosed>"


def test_repr_is_no_use_of_the_store(tmp_path: Path, clock: HandClock) -> None:
    site = Site(clock, tmp_path, cookie_eager=False)
    browser = Browser(site)
    browser.visit(repr)
    assert browser.cookies_received == 0


def test_repr_raises_nothing_outside_of_a_request_in_an_ended_session_or_when_the_storage_fails(
    tmp_path: Path, clock: HandClock
) -> None:
    assert repr(user_store) == "<_Proxy unbound>"
    site = Site(clock, tmp_path)
    browser = Browser(site)
    browser.visit(write)
    ended = browser.visit(lambda store: store.destroy() or repr(store))
    assert ended.endswith("… ended>")
    browser.visit(nothing)
    with apsw.Connection(str(tmp_path / "store.sqlite")) as database:
        database.execute('DROP TABLE "values"')
    assert browser.visit(repr).endswith("… StorageError>")


def test_a_default_that_is_not_given_is_shown_as_missing() -> None:
    assert "default: 'Any' = <missing>" in str(inspect.signature(UserStore.pop))
    assert "default: 'Any' = <missing>" in str(inspect.signature(UserStore.edit))


@pytest.mark.parametrize("call", [UserStore.pop, lambda store, key: store.edit(key).__enter__()])
def test_a_default_that_is_not_given_is_an_error_where_none_is_stored(clock: HandClock, call: Any) -> None:
    with pytest.raises(KeyError):
        call(stores_at("memory://", clock).for_user("ann"), "k")
