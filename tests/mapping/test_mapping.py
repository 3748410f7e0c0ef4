"""What a user store promises beyond a dict: its keys, its limits, its times, and changes that are whole."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from flask_dash_store import (
    InvalidKey,
    InvalidKeyType,
    InvalidTTL,
    NotANumber,
    QuotaExceeded,
    UnstorableValue,
    UserStore,
    UserStoreError,
    UserStoreMiddleware,
    ValueTooLarge,
)
from flask_dash_store.store.views import FEW

START = 1_700_000_000.0
DAY = 24 * 60 * 60


def installed(**options: Any) -> UserStoreMiddleware:
    app = Flask(__name__)
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, **{"url": "sqlite://:memory:", **options})


@pytest.fixture
def store(clock) -> UserStore:
    return installed(clock=clock, ttl=DAY).for_user("ann", ttl=DAY)


def test_what_is_read_is_a_copy(store) -> None:
    store["list"] = value = [1]
    value.append(2)
    store["list"].append(3)
    store.setdefault("list", []).append(4)
    assert store["list"] == [1]


def test_a_view_is_live_and_each_iteration_of_it_is_a_snapshot(store) -> None:
    store.update(a=1, b=2, c=3)
    views = [store, store.keys(), store.values(), store.items()]
    begun = [iter(view) for view in views]
    first = [next(iterator) for iterator in begun]
    with ThreadPoolExecutor(1) as other_thread:
        other_thread.submit(store.clear).result(timeout=30)
    assert first == ["a", "a", 1, ("a", 1)]
    assert [list(iterator) for iterator in begun] == [["b", "c"], ["b", "c"], [2, 3], [("b", 2), ("c", 3)]]
    assert [list(view) for view in views] == [[]] * 4


@pytest.mark.parametrize("direction", [iter, reversed])
def test_an_iteration_of_many_keys_gives_the_first_and_then_all_others_as_they_are_at_one_time(
    store, direction
) -> None:
    names = [f"{n}" for n in range(FEW + 5)]
    store.update(dict.fromkeys(names))
    iteration = direction(store)
    names = list(direction(names))
    assert next(iteration) == names[0]
    del store[names[0]], store[names[2]]
    store["meanwhile"] = None
    second = next(iteration)
    store.clear()
    expected = names[1:2] + names[3:]
    assert [second, *iteration] == (["meanwhile", *expected] if direction is reversed else [*expected, "meanwhile"])


@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1, 3 * FEW])
def test_an_iteration_gives_each_key_once_however_many_there_are(store, count) -> None:
    names = [f"{n}" for n in range(count)]
    store.update(dict.fromkeys(names))
    assert (list(store), list(store.keys()), list(reversed(store))) == (names, names, names[::-1])
    for name in store:
        del store[name]
    assert list(store) == []


# Keys and values


@pytest.mark.parametrize("key", ["k", " ", "\n", "é", "🦆" * 512, "\uffff", "a\\b", "..", "'; DROP TABLE", "__class__"])
def test_any_other_text_is_a_key(store, key) -> None:
    store[key] = key
    assert (store[key], list(store), key in store) == (key, [key], True)


USES: dict[str, Callable[[UserStore, Any], object]] = {
    "[]": lambda store, key: store[key],
    "[] =": lambda store, key: operator.setitem(store, key, 1),
    "del": lambda store, key: operator.delitem(store, key),
    "in": lambda store, key: key in store,
    "get": lambda store, key: store.get(key),
    "pop": lambda store, key: store.pop(key, None),
    "setdefault": lambda store, key: store.setdefault(key, 1),
    "update": lambda store, key: store.update({"fine": 1, key: 1}),
    "set": lambda store, key: store.set(key, 1),
    "expire": lambda store, key: store.expire(key, 1),
    "increment": lambda store, key: store.increment(key),
    "edit": lambda store, key: store.edit(key, []).__enter__(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("key", ["", "a\0b", "a/b", "100%", "\ud800", "k" * 513, 1, None, b"k", ("k",)])
def test_other_keys_are_refused_at_once(store, use, key) -> None:
    with pytest.raises(InvalidKey if isinstance(key, str) else InvalidKeyType) as caught:
        USES[use](store, key)
    assert isinstance(caught.value, ValueError if isinstance(key, str) else TypeError)
    assert len(store) == 0


def test_the_length_of_a_key_is_a_setting_that_its_error_names() -> None:
    store = installed(max_key_length=3).for_user("ann")
    store["abc"] = 1
    with pytest.raises(InvalidKey, match=r"1 to 3 characters; this one has 4. USER_STORE_MAX_KEY_LENGTH"):
        store["abcd"] = 1


WRITES: dict[str, Callable[[UserStore, Any], object]] = {
    "[] =": lambda store, value: operator.setitem(store, "key", value),
    "set": lambda store, value: store.set("key", value, ttl=5),
    "setdefault": lambda store, value: store.setdefault("key2", value),
    "update": lambda store, value: store.update(other=1, key=value),
    "|=": lambda store, value: operator.ior(store, {"other": 1, "key": value}),
}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("value", [lambda: None, threading.Lock(), (n for n in ()), nested(100_000)])
def test_what_cannot_be_pickled_raises_at_once_and_leaves_what_was_stored(store, write, value) -> None:
    store["key"] = "old"
    with pytest.raises(UnstorableValue, match=r"'key2?'"):
        WRITES[write](store, value)
    assert dict(store) == {"key": "old"}


@pytest.mark.parametrize(
    ("options", "error", "setting"),
    [
        ({"max_value_bytes": 1000}, ValueTooLarge, r"1,000.*USER_STORE_MAX_VALUE_BYTES \(max_value_bytes=\)"),
        ({"max_bytes": 1000}, QuotaExceeded, r"1,000.*USER_STORE_MAX_BYTES \(max_bytes=\)"),
    ],
)
@pytest.mark.parametrize("write", WRITES)
def test_a_value_that_is_too_large_is_named_with_its_limit_and_the_setting(write, options, error, setting) -> None:
    store = installed(**options).for_user("ann")
    store["key"] = "old"
    with pytest.raises(error, match=f"'key2?'.*{setting}"):
        WRITES[write](store, bytes(2000))
    assert dict(store) == {"key": "old"}


def test_nbytes_is_what_keys_and_values_take_and_what_the_quota_bounds() -> None:
    store = installed().for_user("ann")
    assert store.nbytes == 0
    store["é"] = bytes(1000)
    full = store.nbytes
    assert 1000 < full < 1500
    store["é"] = None
    assert 0 < store.nbytes < full
    del store["é"]
    assert store.nbytes == 0
    exact = installed(max_bytes=full).for_user("ann")
    exact["é"] = bytes(1000)
    with pytest.raises(QuotaExceeded):
        exact["e"] = None


# Time


@pytest.mark.parametrize("ttl", [5, 5.0, timedelta(seconds=5)])
def test_a_key_with_a_ttl_is_gone_after_it_however_often_it_is_used(store, clock, ttl) -> None:
    store.set("key", 1, ttl)
    store["stays"] = 1
    clock.step(4)
    assert store["key"] == 1
    clock.step(1)
    assert (store.get("key"), "key" in store, dict(store)) == (None, False, {"stays": 1})


def test_a_plain_write_lifts_the_ttl_of_a_key_and_increment_and_edit_keep_it(store, clock) -> None:
    for key in ["lifted", "n", "list"]:
        store.set(key, [] if key == "list" else 0, ttl=5)
    store["lifted"] = 1
    store.increment("n")
    with store.edit("list") as value:
        value.append(1)
    assert (store["n"], store["list"]) == (1, [1])
    clock.step(5)
    assert list(store) == ["lifted"]


def test_increment_and_edit_begin_again_when_the_ttl_of_their_key_has_passed(store, clock) -> None:
    store.set("n", 5, ttl=5)
    store.set("list", [1], ttl=5)
    clock.step(5)
    with store.edit("list", []) as value:
        value.append(2)
    assert (store.increment("n"), dict(store)) == (1, {"list": [2], "n": 1})


def test_expire_cuts_and_lifts_the_ttl_of_a_key(store, clock) -> None:
    store["cut"] = 1
    store.set("lifted", 1, ttl=5)
    store.expire("cut", timedelta(seconds=5))
    store.expire("lifted", None)
    with pytest.raises(KeyError, match="missing"):
        store.expire("missing", 5)
    clock.step(5)
    assert list(store) == ["lifted"]


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), timedelta(0), "5", True])
def test_a_ttl_that_is_not_a_duration_is_refused(store, ttl) -> None:
    store["key"] = 1
    for call in (lambda: store.set("key", 2, ttl), lambda: store.expire("key", ttl)):
        with pytest.raises(InvalidTTL):
            call()
    assert store["key"] == 1


def test_expires_at_is_when_the_values_go_and_uses_move_it(store, clock) -> None:
    assert store.expires_at is None
    store["key"] = 1
    assert store.expires_at == datetime.fromtimestamp(START + DAY, UTC)
    clock.step(DAY / 2)
    assert store.expires_at == datetime.fromtimestamp(START + DAY, UTC)
    assert store["key"] == 1
    assert store.expires_at == datetime.fromtimestamp(START + 1.5 * DAY, UTC)
    clock.step(DAY)
    assert (store.expires_at, dict(store)) == (None, {})


def test_the_store_of_a_user_is_kept_until_it_is_deleted_unless_a_ttl_is_given(clock) -> None:
    store = installed(clock=clock, ttl=DAY).for_user("ann")
    store["key"] = 1
    clock.step(1000 * DAY)
    assert (store["key"], store.expires_at) == (1, None)


# Atomic changes


def test_increment_adds_to_a_number_and_refuses_anything_else(store) -> None:
    assert [store.increment("n"), store.increment("n", 2.5), store.increment("n", -1)] == [1, 3.5, 2.5]
    store["text"] = "1"
    with pytest.raises(NotANumber, match=r"'text'.*str"):
        store.increment("text")
    assert dict(store) == {"n": 2.5, "text": "1"}
    store["n"] = 1
    with pytest.raises(NotANumber, match=r"'n'.*str.*int"):
        store.increment("n", "x")
    assert store["n"] == 1


def test_edit_writes_back_what_it_changed_and_nothing_when_it_fails(store) -> None:
    with store.edit("cart", {}) as cart:
        cart["eggs"] = 6
    with store.edit("cart") as cart:
        cart["milk"] = 1
    with suppress(ZeroDivisionError), store.edit("cart") as cart:
        cart.clear()
        raise ZeroDivisionError
    assert store["cart"] == {"eggs": 6, "milk": 1}
    with pytest.raises(KeyError, match="missing"), store.edit("missing"):
        pass
    with pytest.raises(UnstorableValue, match="'cart'"), store.edit("cart") as cart:
        cart["lock"] = threading.Lock()
    assert dict(store) == {"cart": {"eggs": 6, "milk": 1}}


@pytest.fixture
def same_store_elsewhere(tmp_path) -> tuple[UserStore, UserStore]:
    url = f"sqlite:///{tmp_path}/values.sqlite"
    return installed(url=url).for_user("ann"), installed(url=url).for_user("ann")


def test_a_transaction_covers_several_keys_and_shows_others_all_of_them_or_none(same_store_elsewhere) -> None:
    here, elsewhere = same_store_elsewhere
    here["from"] = 10
    with here.transaction() as store:
        store["from"] -= 3
        store["to"] = store.get("to", 0) + 3
        assert dict(elsewhere) == {"from": 10}
    assert dict(elsewhere) == {"from": 7, "to": 3}


def test_an_inner_transaction_can_fail_by_itself(store) -> None:
    with store.transaction():
        store["outer"] = 1
        with suppress(ZeroDivisionError), store.transaction():
            store.update(outer=2, inner=2)
            raise ZeroDivisionError
        with store.transaction():
            store["fine"] = 3
    assert dict(store) == {"outer": 1, "fine": 3}


# Errors


LIMITS: dict[str, tuple[dict[str, Any], Callable[[UserStore], object], tuple[str | None, float | None, int | None]]] = {
    "ValueTooLarge": (
        {"max_value_bytes": 1000},
        lambda store: operator.setitem(store, "key", "x" * 1000),
        ("key", 1000, None),
    ),
    "TooManyKeys": ({"max_keys": 1}, lambda store: store.update(a=1, key=2), ("key", 1, 1)),
    "InvalidKey": ({"max_key_length": 3}, lambda store: store.get("abcd"), (None, 3, None)),
    "NotANumber": (
        {},
        lambda store: (operator.setitem(store, "key", "x"), store.increment("key")),
        ("key", None, None),
    ),
    "UnstorableValue": ({}, lambda store: operator.setitem(store, "key", lambda: 1), ("key", None, None)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_an_error_has_the_key_the_limit_and_what_was_used_as_attributes(name: str) -> None:
    options, use, expected = LIMITS[name]
    with pytest.raises(UserStoreError) as caught:
        use(installed(**options).for_user("ann"))
    assert type(caught.value).__name__ == name
    assert (caught.value.key, caught.value.limit, caught.value.used) == expected


def test_the_error_of_a_full_store_says_how_many_bytes_are_used() -> None:
    store = installed(max_bytes=1000).for_user("ann")
    store["a"] = "x"
    used = store.nbytes
    with pytest.raises(QuotaExceeded) as caught:
        store["key"] = "x" * 1000
    assert (caught.value.key, caught.value.limit, caught.value.used) == ("key", 1000, used)
