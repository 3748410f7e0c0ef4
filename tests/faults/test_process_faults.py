"""Faults of one process's own: its disk answers with errors, or it may open no more files.

Each runs in a process of its own, for it would hit the tests too.

Promises: docs/reliability.md, "Acknowledged means stored". What databases make of a failed fsync, SQLite among them:
https://www.usenix.org/conference/atc20/presentation/rebello.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlite_file
from backends import Child
from faults import bound_by_modes, closed, fork_and_exit
from flask import Flask

from flask_dash_store import DashDatabase, StorageError, UserStoreMiddleware

SECRET = "k" * 32
LARGE = "x" * 200_000

failing: set[str] = set()


def open_stores(database: Path, **options: Any) -> UserStoreMiddleware:
    app = Flask("faults")
    app.secret_key = SECRET
    return UserStoreMiddleware(app, url=f"sqlite:///{database}", **options)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The database of a store with small and large values."""
    database = tmp_path / "store.sqlite"
    with DashDatabase(database, secret_key=SECRET) as stores:
        stores.store_user_value("ann", "small", 1)
        stores.store_user_value("ann", "large", LARGE)
    return database


# An unreliable disk


class UnreliableFile(apsw.VFSFile):
    """A file on a disk that fails in the calls that are chosen."""


def unless_failing(method: str) -> Callable[..., Any]:
    def call(file: UnreliableFile, *args: Any) -> Any:
        if method in failing:
            raise apsw.IOError(f"{method} fails")
        return getattr(apsw.VFSFile, method)(file, *args)

    return call


for method in ("xRead", "xWrite", "xSync", "xTruncate"):
    setattr(UnreliableFile, method, unless_failing(method))


class UnreliableDisk(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("unreliable", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> UnreliableFile:  # noqa: N802
        return UnreliableFile("unix", name, flags)


def try_all(stores: UserStoreMiddleware, n: int, fault: set[str]) -> tuple[dict[str, Any], set[str]]:
    """What was acknowledged of some writes, and which calls failed with the package's own error."""
    store = stores.for_user("ann")
    acknowledged: dict[str, Any] = {}
    failed: set[str] = set()

    def attempt(name: str, call: Callable[[], Any], values: dict[str, Any]) -> None:
        fork_and_exit()  # Now nothing is answered from the memory of a connection.
        failing.update(fault)
        try:
            call()
            acknowledged.update(values)
        except StorageError:
            failed.add(name)
        failing.clear()

    for name, values in {"small": {"small": n, "more": "y" * 50_000}, "large": {"large": f"{n}{LARGE}"}}.items():
        attempt(name, partial(store.update, values), values)
    attempt("read", store.copy, {})
    attempt("purge", stores.purge, {})
    return acknowledged, failed


def on_an_unreliable_disk(database: Path, method: str) -> set[str]:
    disk = UnreliableDisk()
    stores = open_stores(database, synchronous="FULL")
    store = stores.for_user("ann")
    expected = store.copy()
    acknowledged, failed = try_all(stores, 5, {method})
    expected |= acknowledged
    assert store.copy() == expected
    acknowledged, failed_later = try_all(stores, 6, set())
    assert not failed_later
    assert store.copy() == expected | acknowledged
    assert sqlite_file.problems(database) == []
    fork_and_exit()  # Now no connection needs the disk.
    disk.unregister()
    return failed


@pytest.mark.parametrize(
    ("method", "fails"),
    [
        ("xRead", {"small", "large", "read", "purge"}),
        ("xWrite", {"small", "large"}),
        ("xSync", {"small", "large"}),
        ("xTruncate", set()),
    ],
)
def test_a_disk_that_fails_is_an_error_of_the_calls_that_need_it_and_loses_nothing(database, method, fails) -> None:
    failed = Child("spawn", on_an_unreliable_disk, database, method).outcome()
    assert isinstance(failed, set), failed
    assert fails == failed


# No more files


@contextmanager
def no_more_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def without_descriptors(database: Path) -> None:
    store = open_stores(database).for_user("ann")
    assert store["small"] == 1
    with no_more_files():
        with pytest.raises(StorageError):
            store["large"]
        with pytest.raises(StorageError):
            store["other"] = LARGE
        store["small"] = 2  # There is a connection for this.
        fork_and_exit()  # Now there is none.
        with pytest.raises(StorageError):
            store["small"]
        with pytest.raises(StorageError):
            store["small"] = 3
        with pytest.raises(StorageError):
            open_stores(database).opened()
    assert store.copy() == {"small": 2, "large": LARGE}
    store["other"] = LARGE
    assert open_stores(database).for_user("ann").copy() == {"small": 2, "large": LARGE, "other": LARGE}


def test_without_file_descriptors_what_needs_one_is_an_error_and_passes(database: Path) -> None:
    assert Child("spawn", without_descriptors, database).outcome() is None


# A directory that may not be written to

OPEN = """
import sys
from flask_dash_store import DashDatabase, UserStoreError
try:
    DashDatabase(sys.argv[1], secret_key="k" * 32)
    print("opened")
except UserStoreError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("name", ["store.sqlite", "new.sqlite", "new/store.sqlite"])
def test_a_storage_is_not_opened_in_a_directory_that_is_closed_and_is_when_it_is_open(database, name) -> None:
    def start() -> str:
        command = bound_by_modes([sys.executable, "-c", OPEN, str(database.parent / name)])
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    with closed(database.parent):
        assert start() == "StorageError"
    assert start() == "opened"


# A WAL that has lost its end


def write_and_die(database: Path) -> None:
    store = open_stores(database).for_user("bob")
    for n in range(50):
        store[f"key{n}"] = "v" * 5000
    os._exit(0)


@pytest.mark.parametrize("part", [0, 0.3, 0.9])
def test_a_truncated_wal_loses_the_last_writes_and_nothing_else(database: Path, part: float) -> None:
    with pytest.raises(EOFError):
        Child("spawn", write_and_die, database).outcome()
    wal = Path(f"{database}-wal")
    os.truncate(wal, int(wal.stat().st_size * part))
    stores = open_stores(database)
    stored = list(stores.for_user("bob"))
    assert stored == [f"key{n}" for n in range(len(stored))]
    assert (part == 0) == (stored == [])
    assert stores.for_user("ann").copy() == {"small": 1, "large": LARGE}
    assert sqlite_file.problems(database) == []
