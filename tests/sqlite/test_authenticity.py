"""Large values lie in files that others may be able to write to, and are mapped: what is digested is what is used.

Promises: docs/security.md, "At rest". A private mapping still shows what others write into pages that this process has
not written to (mmap(2), MAP_PRIVATE), so that a digest of it says nothing of what is read from it later.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from flask import Flask

from flask_dash_store import TamperedValue, UserStore, UserStoreMiddleware, codec
from flask_dash_store.buffers import Buffers, unpack
from flask_dash_store.codec import BUFFER_THRESHOLD, PickleCodec

HEADER = 64
LARGE = 4 * BUFFER_THRESHOLD


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def open_stores(database: Path, **options: Any) -> UserStoreMiddleware:
    app = Flask("authenticity")
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url=f"sqlite:///{database}", **options)


@pytest.fixture
def store(database: Path) -> UserStore:
    return open_stores(database).for_user("ann")


def only_file(database: Path) -> Path:
    (file,) = Path(f"{database}.buffers").iterdir()
    return file


def flip(file: Path, offset: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        (byte,) = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte ^ 0xFF]))


# Code


class Touch:
    """A pickle of it touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_that_is_written_into_the_file_between_the_digest_and_unpickling_never_runs(
    store: UserStore, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = [str(number) for number in range(LARGE // 4)]
    store["list"] = value
    file, touched = only_file(database), tmp_path / "touched"
    planted = pickle.dumps(Touch(touched))

    def unpack_and_plant(signed: bytes, buffers: Buffers | None) -> Any:
        """What another process does that has waited for this."""
        unpacked = unpack(signed, buffers)
        with file.open("r+b") as opened:
            opened.seek(HEADER)
            opened.write(planted)
        return unpacked

    monkeypatch.setattr(codec, "unpack", unpack_and_plant)
    assert store["list"] == value
    assert not touched.exists()
    monkeypatch.undo()
    with pytest.raises(TamperedValue, match="'list'"):
        store["list"]
    pickle.loads(planted)
    assert touched.exists(), "the planted pickle would have run"


# Text, bytes, Arrow


def letter(name: str) -> str:
    return f"Dear {name}, ".ljust(10) * (LARGE // 10)


@pytest.mark.parametrize(
    "make",
    [letter, lambda name: letter(name).encode(), lambda name: bytearray(letter(name).encode())],
    ids=["str", "bytes", "bytearray"],
)
def test_the_contents_of_two_files_of_one_length_cannot_be_swapped(database: Path, make: Callable[[str], Any]) -> None:
    stores = open_stores(database)
    files = {}
    for name in ("ann", "bob"):
        before = set(Path(f"{database}.buffers").glob("*"))
        stores.for_user(name)["letter"] = make(name)
        (files[name],) = set(Path(f"{database}.buffers").glob("*")) - before
    ann, bob = (file.read_bytes() for file in files.values())
    assert len(ann) == len(bob)
    files["ann"].write_bytes(ann[:HEADER] + bob[HEADER:])
    files["bob"].write_bytes(bob[:HEADER] + ann[HEADER:])
    for name in files:
        with pytest.raises(TamperedValue, match="'letter'"):
            stores.for_user(name)["letter"]


def expect_every_change_refused(store: UserStore, database: Path) -> None:
    """Of 23 bytes along the file of "value", each of which is put right again."""
    file = only_file(database)
    size = file.stat().st_size
    for offset in range(HEADER, size, size // 23):
        flip(file, offset)
        with pytest.raises(TamperedValue, match="'value'"):
            store["value"]
        flip(file, offset)


TEXTS = [f"row {number}" for number in range(BUFFER_THRESHOLD)]
ARROW: dict[str, Any] = {
    "an array": pa.array(TEXTS),
    "a table": pa.table({"text": TEXTS, "number": range(len(TEXTS))}),
    "numbers": pa.array(range(LARGE // 8)),
    "a polars frame": pl.DataFrame({"text": TEXTS, "number": range(len(TEXTS))}),
    "a pandas frame": pd.DataFrame({"text": pd.array(TEXTS, dtype="string[pyarrow]")}),
}


@pytest.mark.parametrize("name", ARROW)
def test_a_changed_byte_of_what_arrow_stores_is_refused(store: UserStore, database: Path, name: str) -> None:
    """Some of its buffers are offsets: a changed one is a read out of bounds, of other memory or of none (SIGSEGV)."""
    store["value"] = ARROW[name]
    assert store["value"].equals(ARROW[name])
    expect_every_change_refused(store, database)
    assert store["value"].equals(ARROW[name])


# Arrays


class Weights(np.ndarray):
    """What a subclass reads in its numbers is not known, so they are authenticated."""


ARRAYS: dict[str, Any] = {
    "an array": np.ones(LARGE // 8),
    "several": [np.arange(LARGE // 8), np.ones(LARGE // 8)],
    "a pandas frame": pd.DataFrame({"a": np.arange(LARGE // 8), "b": np.ones(LARGE // 8)}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_with_the_setting_a_changed_byte_of_an_array_is_refused(database: Path, name: str) -> None:
    store = open_stores(database, authenticate_arrays=True).for_user("ann")
    store["value"] = ARRAYS[name]
    expect_every_change_refused(store, database)
    assert repr(store["value"]) == repr(ARRAYS[name])


def test_without_it_a_changed_array_has_other_numbers_and_its_file_is_mapped_instead_of_read(
    store: UserStore, database: Path
) -> None:
    store["array"] = np.arange(LARGE // 8, dtype=float)
    flip(only_file(database), HEADER + 80)
    assert np.flatnonzero(store["array"] != np.arange(LARGE // 8)).tolist() == [10]


INDEXES: dict[str, Any] = {
    "integers": np.arange(LARGE // 8),
    "booleans": np.zeros(LARGE, bool),
    "times": np.zeros(LARGE // 8, "datetime64[ns]"),
    "the codes of categories": pd.Series(
        pd.Categorical.from_codes(np.arange(LARGE) % 40_000, pd.Index(range(40_000), dtype=object))
    ),
}


@pytest.mark.parametrize("name", INDEXES)
def test_without_it_too_a_changed_byte_of_what_can_be_an_index_is_refused(
    store: UserStore, database: Path, name: str
) -> None:
    """pandas looks up a category by its code, and SciPy a column by its index, and neither looks at the bounds."""
    store["value"] = INDEXES[name]
    assert repr(store["value"]) == repr(INDEXES[name])
    expect_every_change_refused(store, database)


def test_what_was_stored_with_either_choice_is_read_with_the_other(database: Path) -> None:
    with_it, without = (open_stores(database, authenticate_arrays=choice).for_user("ann") for choice in (True, False))
    with_it["with"] = without["without"] = np.arange(LARGE // 8, dtype=float)
    for store in (with_it, without):
        assert all((store[key] == np.arange(LARGE // 8)).all() for key in ("with", "without"))


def test_the_setting_is_a_config_key_too(database: Path) -> None:
    app = Flask("authenticity")
    app.config.update(SECRET_KEY="k" * 32, USER_STORE_URL=f"sqlite:///{database}", USER_STORE_AUTHENTICATE_ARRAYS=True)
    store = UserStoreMiddleware(app).for_user("ann")
    store["array"] = np.arange(LARGE // 8, dtype=float)
    flip(only_file(database), HEADER + 80)
    with pytest.raises(TamperedValue):
        store["array"]


def test_a_subclass_of_numpys_array_is_authenticated_always(store: UserStore, database: Path) -> None:
    store["weights"] = np.arange(LARGE // 8, dtype=float).view(Weights)
    flip(only_file(database), HEADER + 80)
    with pytest.raises(TamperedValue, match="'weights'"):
        store["weights"]


def test_an_array_that_another_thread_changes_while_it_is_stored_is_there_after_the_machine_has_restarted(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum is of what was written: one of what was to be written would make it look torn by a power loss."""
    array = np.zeros(4 * LARGE, np.float16)
    stop = Event()

    def change() -> None:
        while not stop.is_set():
            np.add(array, 1, out=array)

    thread = Thread(target=change)
    thread.start()
    try:
        for choice in (False, True):
            store = open_stores(database, authenticate_arrays=choice).for_user("ann")
            for number in range(10):
                store[f"{choice}-{number}"] = array
    finally:
        stop.set()
        thread.join()
    monkeypatch.setattr("flask_dash_store.storage.sqlite.storage.boot_id", lambda: "after the restart")
    store = open_stores(database).for_user("ann")
    assert len(store) == 20
    assert all(value.shape == array.shape for value in store.copy().values())
    assert store.keys() == {f"{choice}-{number}" for choice in (False, True) for number in range(10)}


def test_bytes_that_are_authenticated_are_digested_as_they_are_written_though_another_thread_changes_them() -> None:
    value = bytearray(8 * LARGE)
    pickler, stop = PickleCodec([b"s" * 32]), Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n = (n + 1) % 256
            value[:: LARGE // 16] = bytes([n]) * len(value[:: LARGE // 16])

    thread = Thread(target=change)
    thread.start()
    try:
        for _ in range(20):
            payload, buffers = pickler.encode("u.ann", "k", value)
            assert buffers is not None
            written = Buffers(buffers.name, [memoryview(bytearray(b"".join(buffers.chunks())))])
            assert len(pickler.decode("u.ann", "k", (payload, written))) == len(value)
    finally:
        stop.set()
        thread.join()
