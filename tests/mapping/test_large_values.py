"""Large values lie in files beside the database: equal, writable, whole or absent, and never left behind.

Promises: docs/reliability.md, "All or nothing" and "Damage stays small"; docs/security.md, "At rest".
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlite_file
from clocks import HandClock
from flask import Flask

from flask_dash_store import (
    QuotaExceeded,
    SessionEnded,
    StorageCorrupt,
    TamperedValue,
    UserStore,
    UserStoreMiddleware,
    ValueTooLarge,
)
from flask_dash_store.codec import BUFFER_THRESHOLD
from flask_dash_store.storage.sqlite.maintenance import ORPHAN_AGE

LARGE = 4 * BUFFER_THRESHOLD
SESSION_ID = "a" * 64


def install(database: Path, **options: Any) -> UserStoreMiddleware:
    app = Flask("large", instance_path=str(database.parent))
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url=f"sqlite:///{database}", **options)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def middleware(database: Path, clock: HandClock) -> UserStoreMiddleware:
    return install(database, clock=clock)


@pytest.fixture
def store(middleware: UserStoreMiddleware) -> UserStore:
    return middleware.for_user("ann")


def files(database: Path) -> list[Path]:
    directory = Path(f"{database}.buffers")
    return sorted(directory.iterdir()) if directory.exists() else []


def numbers(rows: int = LARGE // 8) -> np.ndarray:
    return np.arange(rows, dtype=np.float64)


FRAME = pd.DataFrame(
    {
        "number": numbers(),
        "text": [f"row {n}" for n in range(LARGE // 8)],
        "object": pd.Series([n if n % 2 else None for n in range(LARGE // 8)], dtype=object),
        "category": pd.Categorical(["red", "green"] * (LARGE // 16)),
        "when": pd.date_range("2026-01-01", periods=LARGE // 8, freq="s"),
    }
)


def test_a_pandas_frame_of_any_columns_comes_back_equal_and_usable(store: UserStore) -> None:
    store["frame"] = FRAME
    frame = store["frame"]
    pd.testing.assert_frame_equal(frame, FRAME)
    assert frame.groupby("category", observed=True)["number"].sum().sum() == FRAME["number"].sum()


def test_a_polars_frame_comes_back_equal(store: UserStore) -> None:
    frame = pl.DataFrame({"a": numbers(), "b": [str(n) for n in range(LARGE // 8)]})
    store["frame"] = frame
    assert store["frame"].equals(frame)


def test_an_arrow_table_comes_back_equal(store: UserStore) -> None:
    table = pa.table({"a": numbers(), "b": pa.array([str(n) for n in range(LARGE // 8)])})
    store["table"] = table
    assert store["table"].equals(table)


@pytest.mark.parametrize(
    "value",
    [
        b"x" * LARGE,
        "é" * LARGE,
        "\ud800" * LARGE,
        bytearray(b"x" * LARGE),
        [str(n) for n in range(LARGE // 4)],
        {"small": 1, "large": b"y" * LARGE},
    ],
    ids=["bytes", "str", "surrogates", "bytearray", "list", "dict"],
)
def test_a_large_value_without_buffers_lies_in_a_file_too(store: UserStore, database: Path, value: Any) -> None:
    store["value"] = value
    assert store["value"] == value
    assert type(store["value"]) is type(value)
    assert len(files(database)) == 1


@pytest.mark.parametrize(
    "array",
    [np.asfortranarray(np.random.default_rng(1).random((512, 512))), numbers()[::2], numbers().reshape(-1, 4).T],
    ids=["fortran", "strided", "transposed"],
)
def test_arrays_of_any_layout_come_back_equal(store: UserStore, array: np.ndarray) -> None:
    store["array"] = array
    np.testing.assert_array_equal(store["array"], array)


def test_a_small_value_has_no_file(store: UserStore, database: Path) -> None:
    store["array"] = numbers(10)
    assert files(database) == []


def test_arrays_are_aligned_and_writable_and_writing_changes_nothing_stored(store: UserStore) -> None:
    store["arrays"] = [numbers(), numbers()]
    mine = store["arrays"]
    for array in mine:
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0
        array[:] = -1
    for array in store["arrays"]:
        np.testing.assert_array_equal(array, numbers())


def test_a_value_that_was_read_outlives_the_key(store: UserStore) -> None:
    store["array"] = numbers()
    array = store["array"]
    del store["array"]
    np.testing.assert_array_equal(array, numbers())


def test_files_are_private_whatever_the_umask(store: UserStore, database: Path) -> None:
    before = os.umask(0)
    try:
        store["array"] = numbers()
    finally:
        os.umask(before)
    (file,) = files(database)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_replacing_deleting_and_clearing_leave_no_file(store: UserStore, database: Path) -> None:
    store["a"] = numbers()
    store["a"] = numbers()
    store["b"] = numbers()
    assert len(files(database)) == 2
    store["a"] = 1
    assert len(files(database)) == 1
    del store["b"]
    assert files(database) == []
    store.update(a=numbers(), b=numbers())
    store.clear()
    assert files(database) == []


def test_a_transaction_that_is_rolled_back_leaves_the_old_file_alone(store: UserStore, database: Path) -> None:
    store["a"] = numbers()
    kept = files(database)
    with pytest.raises(KeyError), store.transaction():
        store["a"] = "small"
        store["b"] = numbers()
        raise KeyError
    assert files(database) == kept
    np.testing.assert_array_equal(store["a"], numbers())


def test_an_inner_block_that_fails_takes_its_own_files_alone(store: UserStore, database: Path) -> None:
    with store.transaction():
        store["a"] = numbers()
        with pytest.raises(KeyError), store.transaction():
            store["a"] = numbers(LARGE)
            store["b"] = numbers()
            raise KeyError
    assert list(store) == ["a"]
    assert len(files(database)) == 1
    np.testing.assert_array_equal(store["a"], numbers())


def test_large_values_stay_when_the_session_gets_a_new_id_and_go_when_it_ends(
    middleware: UserStoreMiddleware, database: Path
) -> None:
    session = middleware.open(SESSION_ID)
    session["array"] = numbers()
    session.regenerate()
    np.testing.assert_array_equal(session["array"], numbers())
    session.destroy()
    assert files(database) == []


def test_purging_removes_the_files_of_what_has_expired(
    middleware: UserStoreMiddleware, database: Path, clock: HandClock
) -> None:
    middleware.open(SESSION_ID)["array"] = numbers()
    middleware.for_user("ann").set("array", numbers(), ttl=60)
    clock.step(25 * 60 * 60)
    middleware.purge()
    assert files(database) == []


def test_purging_removes_orphans_once_they_are_old_enough(
    middleware: UserStoreMiddleware, store: UserStore, database: Path, clock: HandClock
) -> None:
    store["array"] = numbers()
    (named,) = files(database)
    old, young, unfinished = (named.with_name(name) for name in ("0" * 32, "1" * 32, "2" * 32 + ".tmp"))
    for file, age in ((named, 2), (old, 2), (young, 0.5), (unfinished, 2)):
        file.touch()
        os.utime(file, (clock.now - age * ORPHAN_AGE,) * 2)
    middleware.purge()
    assert files(database) == sorted([named, young])


@pytest.mark.parametrize("replacement", [None, numbers() + 1])
def test_what_is_deleted_or_replaced_while_it_is_mapped_goes_at_once_and_its_file_with_a_later_purge_at_the_latest(
    middleware: UserStoreMiddleware, store: UserStore, database: Path, replacement: np.ndarray | None
) -> None:
    """Windows unlinks no file that is mapped."""
    store["array"] = numbers()
    (first,) = files(database)
    mapped = store["array"]
    if replacement is None:
        del store["array"]
        assert "array" not in store
    else:
        store["array"] = replacement
        np.testing.assert_array_equal(store["array"], replacement)
    np.testing.assert_array_equal(mapped, numbers())
    middleware.purge()
    np.testing.assert_array_equal(mapped, numbers())
    del mapped
    middleware.purge()
    assert first not in files(database)
    assert len(files(database)) == (replacement is not None)


def test_a_copy_may_bring_again_what_is_mapped(middleware: UserStoreMiddleware, store: UserStore) -> None:
    """Windows replaces no file that is mapped."""
    store["array"] = numbers()
    mapped, storage = store["array"], middleware.opened().storage
    dump = storage.dump("u.ann")
    storage.load("u.ann", dump)
    np.testing.assert_array_equal(store["array"], mapped)


def test_quota_size_and_nbytes_count_them(database: Path) -> None:
    store = install(database, max_bytes=3 * LARGE, max_value_bytes=2 * LARGE).for_user("ann")
    store["a"] = numbers()
    assert LARGE <= store.nbytes <= LARGE + 2048
    with pytest.raises(ValueTooLarge, match="USER_STORE_MAX_VALUE_BYTES"):
        store["a"] = numbers(LARGE)
    store["b"] = numbers()
    with pytest.raises(QuotaExceeded, match="USER_STORE_MAX_BYTES"):
        store["c"] = numbers(LARGE // 6)
    assert len(files(database)) == 2
    store.clear()
    assert store.nbytes == 0


def test_the_files_of_two_users_cannot_be_swapped(middleware: UserStoreMiddleware, database: Path) -> None:
    for user in ("anna", "bert"):
        middleware.for_user(user)["array"] = numbers() if user == "anna" else -numbers()
    first, second = files(database)
    aside = first.with_name("aside")
    first.rename(aside), second.rename(first), aside.rename(second)
    for user in ("anna", "bert"):
        with pytest.raises(TamperedValue, match="'array'"):
            middleware.for_user(user)["array"]


def test_a_large_pickle_in_a_file_is_authenticated_before_it_is_unpickled(store: UserStore, database: Path) -> None:
    store["list"] = [str(n) for n in range(LARGE // 4)]
    (file,) = files(database)
    contents = bytearray(file.read_bytes())
    contents[-10] ^= 1
    file.write_bytes(contents)
    with pytest.raises(TamperedValue, match="'list'"):
        store["list"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_file_costs_its_key_alone(store: UserStore, database: Path, damage: str) -> None:
    store["array"] = numbers()
    store["other"] = 1
    (file,) = files(database)
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, 1000 if damage == "truncated" else 0)
    with pytest.raises(StorageCorrupt):
        store["array"]
    assert store["other"] == 1
    del store["array"]
    assert list(store) == ["other"]


@pytest.mark.parametrize("damage", ["none", "missing", "truncated", "zeros"])
def test_after_a_power_loss_a_value_is_whole_or_absent(
    middleware: UserStoreMiddleware, database: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    middleware.for_user("ann")["array"] = numbers()
    (file,) = files(database)
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        os.truncate(file, LARGE // 2)
    elif damage == "zeros":
        with file.open("r+b") as opened:
            opened.seek(LARGE // 2)
            opened.write(bytes(4096))
    monkeypatch.setattr("flask_dash_store.storage.sqlite.storage.boot_id", lambda: "after the power loss")
    store = install(database).for_user("ann")
    if damage == "none":
        np.testing.assert_array_equal(store["array"], numbers())
    else:
        assert (list(store), len(store), "array" in store, store.get("array")) == ([], 0, False, None)
        assert store.copy() == {}


@pytest.mark.parametrize("lost", ["first", "last"])
def test_after_a_power_loss_the_ends_are_those_of_what_is_left(
    middleware: UserStoreMiddleware, database: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    before = middleware.for_user("ann")
    for key in ("first", "second", *(f"{n}" for n in range(20)), "last"):
        before[key] = numbers() if key == lost else key
    (file,) = files(database)
    file.unlink()
    monkeypatch.setattr("flask_dash_store.storage.sqlite.storage.boot_id", lambda: "after the power loss")
    store = install(database).for_user("ann")
    if lost == "first":
        assert next(iter(store)) == "second"
    else:
        assert store.popitem() == ("19", "19")
        assert next(reversed(store)) == "18"


def test_the_space_of_what_was_large_is_given_back(
    middleware: UserStoreMiddleware, database: Path, clock: HandClock
) -> None:
    store = middleware.open(SESSION_ID)
    for n in range(400):
        store[f"key{n}"] = os.urandom(BUFFER_THRESHOLD // 2)
    clock.step(25 * 60 * 60)
    middleware.purge()
    with middleware.for_user("ann").transaction():
        pass
    [(pages,)] = sqlite_file.execute(database, "PRAGMA page_count")
    assert pages < 100


def test_readers_that_lose_a_race_read_again(store: UserStore) -> None:
    values = [numbers() * n for n in range(4)]
    store["array"] = values[0]
    stop = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                array = store["array"]
                assert (array == values[int(array[1])]).all()
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(300):
        store["array"] = values[n % 4]
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []


def total(database: Path) -> float:
    return float(install(database).for_user("ann")["array"].sum())


def test_another_process_reads_it(store: UserStore, database: Path) -> None:
    store["array"] = numbers()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(total, (database,)) == numbers().sum()


def test_in_memory_they_are_copies_too() -> None:
    app = Flask("memory")
    app.secret_key = "k" * 32
    store = UserStoreMiddleware(app, url="sqlite://:memory:").for_user("ann")
    store["array"] = numbers()
    store["array"][:] = -1
    np.testing.assert_array_equal(store["array"], numbers())


def test_a_refused_write_leaves_no_file(middleware: UserStoreMiddleware, database: Path) -> None:
    late = middleware.open(SESSION_ID)
    middleware.open(SESSION_ID).destroy()
    for _ in range(2):
        with pytest.raises(SessionEnded):
            late["large"] = os.urandom(BUFFER_THRESHOLD)
    assert files(database) == []


def test_more_values_than_a_process_may_have_files_open_are_read_and_kept(store: UserStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
    try:
        for n in range(700):
            store[f"{n}"] = np.full(BUFFER_THRESHOLD, n, np.uint16)
        kept = store.copy()
        assert all((kept[f"{n}"] == n).all() for n in range(700))
        kept["699"][0] = 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
