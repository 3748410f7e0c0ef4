"""DashDatabase behaves as the package dash_database does, without its faults: no user meets another's keys."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlite_file
from backends import Child
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flask_dash_store import DashDatabase
from flask_dash_store.errors import (
    InvalidKey,
    InvalidKeyType,
    InvalidTTL,
    StorageClosed,
    TamperedValue,
    UnstorableValue,
)
from flask_dash_store.storage.sqlite import schema

HOSTILE = [
    "",
    "1",
    "12",
    "1_",
    "1_2",
    "_",
    "1/",
    "1/2",
    "/",
    "%",
    "%2F",
    "1%2F2",
    ".",
    "..",
    "0",
    "u.1",
    "é",
    "a b",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

CALLS: dict[str, Callable[[DashDatabase, Any], object]] = {
    "store": lambda db, user: db.store_user_value(user, "k", 1),
    "get": lambda db, user: db.get_user_value(user, "k"),
    "delete": lambda db, user: db.delete_user_value(user, "k"),
    "delete all": lambda db, user: db.delete_all_user_values(user),
    "list": lambda db, user: db.list_stored_user_keys(user),
}
CALLS_WITH_KEY: dict[str, Callable[[DashDatabase, Any], object]] = {
    "store": lambda db, key: db.store_user_value("ann", key, 1),
    "get": lambda db, key: db.get_user_value("ann", key),
    "delete": lambda db, key: db.delete_user_value("ann", key),
}


@dataclass
class Animal:
    """A value of a class of the app's own."""

    name: str


@pytest.fixture
def db(clock) -> Iterator[DashDatabase]:
    with DashDatabase(clock=clock) as db:
        yield db


def test_values_are_stored_got_listed_and_deleted_by_user(db) -> None:
    db.store_user_value(user_id=123, key_name="account_id", value=46887)
    db.store_user_value(user_id=123, key_name="favorite_animal", value=Animal("monkey"))
    db.store_user_value(456, "account_id", 87874)
    assert db.list_stored_user_keys(user_id=123) == ["account_id", "favorite_animal"]
    assert db.get_user_value(user_id=123, key_name="favorite_animal") == Animal("monkey")
    db.store_user_value(123, "account_id", 1)
    assert db.delete_user_value(user_id=123, key_name="favorite_animal", if_not_exists="ignore") is None
    assert db.delete_all_user_values(user_id=456) is None
    assert (db.list_stored_user_keys(123), db.list_stored_user_keys(456)) == (["account_id"], [])
    assert (db.get_user_value(123, "account_id"), db.get_user_value(456, "account_id")) == (1, None)


def test_what_is_missing_is_none_and_deleting_it_is_ignored_or_raised(db) -> None:
    assert db.get_user_value("ann", "k") is None
    assert db.list_stored_user_keys("ann") == []
    db.delete_all_user_values("ann")
    db.delete_user_value("ann", "k")
    db.delete_user_value("ann", "k", "ignore")
    with pytest.raises(KeyError, match="'k'"):
        db.delete_user_value("ann", "k", if_not_exists="raise")
    db.store_user_value("ann", "k", 1)
    db.delete_user_value("ann", "k", if_not_exists="raise")
    assert db.get_user_value("ann", "k") is None


@pytest.mark.parametrize("word", ["Raise", "", None, True])
def test_another_word_for_if_not_exists_is_an_error_and_deletes_nothing(db, word) -> None:
    db.store_user_value("ann", "k", 1)
    with pytest.raises(ValueError, match="if_not_exists"):
        db.delete_user_value("ann", "k", word)
    assert db.get_user_value("ann", "k") == 1


def test_an_int_is_the_same_user_and_the_same_key_as_its_decimal_text(db) -> None:
    db.store_user_value(12, -3, "value")
    assert db.get_user_value("12", "-3") == db.get_user_value(12, "-3") == "value"
    assert (db.list_stored_user_keys("12"), db.users()) == (["-3"], ["12"])
    db.delete_user_value("12", -3, "raise")
    assert db.users() == []


@pytest.mark.parametrize("wrong", [None, 1.0, b"1", (1,), ["1"], object()])
def test_another_type_of_user_id_or_key_name_is_a_type_error(db, wrong) -> None:
    for call in (*CALLS.values(), *CALLS_WITH_KEY.values()):
        with pytest.raises(InvalidKeyType) as caught:
            call(db, wrong)
        assert isinstance(caught.value, TypeError)
    assert db.users() == []


@pytest.mark.parametrize("wrong", ["\ud800", "k" * 513])
def test_an_id_or_name_that_cannot_be_kept_is_an_error_that_says_so(db, wrong) -> None:
    for call in (*CALLS.values(), *CALLS_WITH_KEY.values()):
        with pytest.raises(InvalidKey, match=r"512 characters|surrogate"):
            call(db, wrong)


@pytest.mark.parametrize("user", HOSTILE)
def test_no_user_meets_another_whatever_the_ids_are(db, user) -> None:
    for each in HOSTILE:
        for key in HOSTILE:
            db.store_user_value(each, key, [each, key])
    assert sorted(db.users()) == sorted(HOSTILE)
    db.delete_user_value(user, user, "raise")
    assert db.list_stored_user_keys(user) == [key for key in HOSTILE if key != user]
    db.delete_all_user_values(user)
    for each in HOSTILE:
        values = [db.get_user_value(each, key) for key in HOSTILE]
        assert values == [None if each == user else [each, key] for key in HOSTILE]
        assert db.list_stored_user_keys(each) == ([] if each == user else HOSTILE)


@settings(deadline=None)
@given(users=st.lists(TEXT, min_size=2, max_size=2, unique=True), keys=st.lists(TEXT, min_size=1, unique=True))
@example(users=["\0", "\0\0"], keys=["\0", "a\0", "a\0b"])
def test_any_two_ids_are_two_users_and_any_text_is_a_key(users, keys) -> None:
    one, other = users
    with DashDatabase() as db:
        for key in keys:
            db.store_user_value(one, key, f"of one: {key}")
            db.store_user_value(other, key, f"of the other: {key}")
        db.delete_all_user_values(one)
        assert (db.list_stored_user_keys(one), db.users()) == ([], [other])
        assert db.list_stored_user_keys(other) == keys
        assert [db.get_user_value(other, key) for key in keys] == [f"of the other: {key}" for key in keys]


def test_listing_touches_the_keys_of_its_user_alone(tmp_path) -> None:
    DashDatabase(tmp_path / "values.sqlite").close()
    query = f"EXPLAIN QUERY PLAN {schema.KEYS}"
    plan = sqlite_file.execute(
        tmp_path / "values.sqlite", query, {"owner": "u.ann", "session": None, "now": 0, "limit": -1}
    )
    assert [step for *_, step in plan if step.startswith("SCAN")] == []


def test_what_cannot_be_stored_raises_at_once_and_leaves_what_was_there(db) -> None:
    db.store_user_value("ann", "k", "old")
    with pytest.raises(UnstorableValue, match="'k'"):
        db.store_user_value("ann", "k", lambda: None)
    assert db.get_user_value("ann", "k") == "old"


# Time


@pytest.mark.parametrize("ttl", [10, timedelta(seconds=10)])
def test_ttl_is_how_long_the_values_of_an_idle_user_are_kept(clock, ttl) -> None:
    with DashDatabase(clock=clock, ttl=ttl) as db:
        db.store_user_value("ann", "k", 1)
        db.store_user_value("bob", "k", 2)
        clock.step(6)
        assert db.get_user_value("ann", "k") == 1
        clock.step(6)
        assert (db.get_user_value("ann", "k"), db.get_user_value("bob", "k"), db.users()) == (1, None, ["ann"])
        assert (db.purge(), db.purge()) == (1, 0)
        assert db.get_user_value("ann", "k") == 1


def test_a_value_can_have_a_ttl_of_its_own_and_without_any_it_stays(db, clock) -> None:
    db.store_user_value("ann", "brief", 1, ttl=5)
    db.store_user_value("ann", "stays", 1)
    clock.step(5)
    assert db.list_stored_user_keys("ann") == ["stays"]
    clock.step(1e9)
    assert db.get_user_value("ann", "stays") == 1


def test_what_has_expired_is_removed_while_the_database_is_used(tmp_path, clock) -> None:
    with DashDatabase(tmp_path / "values.sqlite", clock=clock, ttl=10) as db:
        db.store_user_value("ann", "k", 1)
        clock.step(3600)
        db.store_user_value("bob", "k", 1)
        assert sqlite_file.execute(tmp_path / "values.sqlite", 'SELECT key FROM "values"') == [("u.bob/k",)]


def test_a_ttl_that_is_not_a_duration_is_refused(db) -> None:
    for call in (lambda: DashDatabase(ttl=0), lambda: db.store_user_value("ann", "k", 1, ttl=-1)):
        with pytest.raises(InvalidTTL):
            call()


# Where it lies


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_keeps_the_values(tmp_path, kind) -> None:
    path = kind(tmp_path / "values.sqlite")
    with DashDatabase(path) as db:
        db.store_user_value("ann", "k", Animal("monkey"))
        assert repr(db) == f'DashDatabase at "{path}"'
    with DashDatabase(db_location=path) as db:
        assert db.get_user_value("ann", "k") == Animal("monkey")


def test_none_keeps_the_values_in_a_file_until_it_is_closed() -> None:
    with DashDatabase(None) as db:
        path = Path(repr(db).split('"')[1])
        db.store_user_value("ann", "k", 1)
        assert (db.get_user_value("ann", "k"), path.exists()) == (1, True)
    assert not path.parent.exists()


def test_each_database_in_memory_is_one_of_its_own(db) -> None:
    db.store_user_value("ann", "k", 1)
    with DashDatabase(":memory:") as other:
        assert other.get_user_value("ann", "k") is None
        assert repr(other) == repr(db) == 'DashDatabase at ":memory:"'


@pytest.mark.parametrize("call", [*CALLS.values(), DashDatabase.users, DashDatabase.purge])
def test_a_closed_database_says_so(call) -> None:
    with DashDatabase() as db:
        pass
    db.close()
    with pytest.raises(StorageClosed):
        call(db) if call in (DashDatabase.users, DashDatabase.purge) else call(db, "ann")


# Secrets


@pytest.mark.parametrize("secret", ["s" * 32, b"s" * 32])
def test_a_secret_key_keeps_planted_pickles_from_running(tmp_path, secret) -> None:
    touched, path = tmp_path / "touched", tmp_path / "values.sqlite"

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (touched,)

    with DashDatabase(path, secret_key=secret) as db:
        db.store_user_value("ann", "k", 1)
        db.store_user_value("bob", "k", 2)
        [(of_bob,)] = sqlite_file.execute(path, "SELECT value FROM \"values\" WHERE key = 'u.bob/k'")
        assert (db.get_user_value("ann", "k"), db.get_user_value("bob", "k")) == (1, 2)
        for planted in (pickle.dumps(Touch()), pickle.dumps(Touch()) + bytes(32), of_bob):
            sqlite_file.execute(path, "UPDATE \"values\" SET value = ? WHERE key = 'u.ann/k'", (planted,))
            with pytest.raises(TamperedValue):
                db.get_user_value("ann", "k")
    assert not touched.exists()


def test_secret_keys_rotate(tmp_path) -> None:
    path = tmp_path / "values.sqlite"
    with DashDatabase(path, secret_key="old" * 11) as db:
        db.store_user_value("ann", "before", 1)
    with DashDatabase(path, secret_key=["new" * 11, "old" * 11]) as db:
        db.store_user_value("ann", "since", 2)
        assert db.get_user_value("ann", "before") == 1
    with DashDatabase(path, secret_key="new" * 11) as db:
        assert db.get_user_value("ann", "since") == 2
        with pytest.raises(TamperedValue):
            db.get_user_value("ann", "before")


# Threads and processes


def test_threads_lose_nothing_of_each_other(db) -> None:
    def store(n: int) -> list[Any]:
        for key in range(50):
            db.store_user_value("shared", f"{n} {key}", n)
            db.store_user_value(n, key, [n, key])
        return [db.get_user_value(n, key) for key in range(50)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store, range(8), timeout=60)) == [[[n, key] for key in range(50)] for n in range(8)]
    assert len(db.list_stored_user_keys("shared")) == 400


def store_elsewhere(path: Path) -> Any:
    with DashDatabase(path, secret_key="s" * 32) as db:
        db.store_user_value("ann", "theirs", Animal("fox"))
        return db.get_user_value("ann", "ours")


def test_two_processes_share_their_values(tmp_path) -> None:
    path = tmp_path / "values.sqlite"
    with DashDatabase(path, secret_key="s" * 32) as db:
        db.store_user_value("ann", "ours", Animal("monkey"))
        assert Child("spawn", store_elsewhere, path).outcome() == Animal("monkey")
        assert db.get_user_value("ann", "theirs") == Animal("fox")
