"""Who can write to the files gets no code to run and no value to another user; who can read them opens no session.

Promises: docs/security.md, "At rest". Unpickling what others can write runs their code (CWE-502).
"""

from __future__ import annotations

import base64
import itertools
import pickle
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clocks import HandClock
from visits import LIFETIME, TTL, Browser, Site, nothing

from flask_dash_store import StorageCorrupt, StorageError, TamperedValue, UserStore
from flask_dash_store.codec import BUFFER_THRESHOLD
from flask_dash_store.owner import session_owner
from flask_dash_store.signer import MAC_BYTES

# The file of a large value begins with a header of 64 bytes, whose checksum is looked at after a power loss.
CHECKSUM, HEADER = 56, 64

SMALL = {"name": "Ada"}
LIST = [str(number) for number in range(BUFFER_THRESHOLD // 4)]
ARRAY = np.arange(BUFFER_THRESHOLD // 4, dtype=np.float64)


class Touch:
    """A pickle of it touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def site(clock: HandClock, tmp_path: Path) -> Site:
    return Site(clock, tmp_path / "data")


@pytest.fixture
def store(site: Site) -> UserStore:
    """A user's store with a small value, and two large ones: one that is a pickle, and one that is numbers."""
    store = site.middleware.for_user("ada")
    store.update(small=SMALL, list=LIST, array=ARRAY, other="untouched")
    return store


def payload(site: Site, key: str) -> bytes:
    return site.database.execute('SELECT value FROM "values" WHERE key = ?', (f"u.ada/{key}",)).get


def plant(site: Site, key: str, value: Any, column: str = "value") -> None:
    """Write to the data file as one can who has no secret."""
    site.database.execute(f'UPDATE "values" SET {column} = ? WHERE key = ?', (value, f"u.ada/{key}"))


def buffer_file(site: Site, key: str) -> Path:
    name = site.database.execute('SELECT file FROM "values" WHERE key = ?', (f"u.ada/{key}",)).get
    return Path(f"{site.database.filename}.buffers", name)


def flipped(original: bytes, places: Iterable[int]) -> Iterator[bytes]:
    for at in places:
        yield original[:at] + bytes([original[at] ^ 0xFF]) + original[at + 1 :]


def with_checksum(contents: bytes) -> bytes:
    """The file of a large value, changed by one who knows how its header is made."""
    return contents[:CHECKSUM] + zlib.crc32(contents[HEADER:]).to_bytes(4, "little") + contents[CHECKSUM + 4 :]


# Changed and planted


@pytest.mark.parametrize("key", ["small", "list", "array"])
def test_with_any_byte_of_its_row_flipped_a_value_is_named_and_the_rest_of_the_store_works(
    site: Site, store: UserStore, key: str
) -> None:
    original = payload(site, key)
    for changed in flipped(original, range(len(original))):
        plant(site, key, changed)
        with pytest.raises(TamperedValue) as raised:
            store[key]
        assert f"'{key}'" in str(raised.value)
        assert "u.ada" in str(raised.value)
        assert store["other"] == "untouched"
    plant(site, key, original)
    assert len(store.copy()) == 4


def test_the_error_of_a_changed_value_shows_the_beginning_of_the_sessions_name_alone(site: Site) -> None:
    browser = Browser(site)
    browser.visit(lambda store: store.update(key=1))
    site.database.execute('UPDATE "values" SET value = ?', (pickle.dumps("planted"),))

    def read(store: UserStore) -> str:
        with pytest.raises(TamperedValue, match="'key'") as raised:
            store["key"]
        return str(raised.value)

    message = browser.visit(read)
    [named] = re.findall(r"s\.[\w-]+", message)
    assert session_owner(browser.id).name.startswith(named)
    assert browser.id[:10] not in message


def test_with_any_byte_of_its_file_flipped_a_large_pickle_is_refused(site: Site, store: UserStore) -> None:
    file = buffer_file(site, "list")
    original = file.read_bytes()
    for changed in flipped(original, [*range(CHECKSUM), *range(HEADER, len(original), 499)]):
        for contents in (changed, with_checksum(changed)):
            file.write_bytes(contents)
            with pytest.raises((TamperedValue, StorageCorrupt)):
                store["list"]
    file.write_bytes(original)
    assert store["list"] == LIST


def test_with_any_byte_of_its_file_flipped_an_array_is_refused_or_has_other_numbers(
    site: Site, store: UserStore
) -> None:
    file = buffer_file(site, "array")
    original = file.read_bytes()
    for changed in flipped(original, range(HEADER, len(original), 997)):
        file.write_bytes(changed)
        array = store["array"]
        assert (array.shape, array.dtype, type(array)) == (ARRAY.shape, ARRAY.dtype, np.ndarray)
        assert (array.view(np.uint64) != ARRAY.view(np.uint64)).sum() == 1


@pytest.mark.parametrize("key", ["small", "list", "array"])
def test_a_pickle_that_was_planted_in_a_row_never_runs(site: Site, store: UserStore, tmp_path: Path, key: str) -> None:
    original, planted = payload(site, key), pickle.dumps(Touch(tmp_path / "touched"))
    for forgery in (planted, planted + original, planted + original[-MAC_BYTES:], planted + original[-200:]):
        plant(site, key, forgery)
        with pytest.raises(TamperedValue, match=f"'{key}'"):
            store[key]
    assert store["other"] == "untouched"
    assert_would_have_run(planted, tmp_path / "touched")


@pytest.mark.parametrize("key", ["list", "array"])
def test_a_pickle_that_was_planted_in_the_file_of_a_large_value_never_runs(
    site: Site, store: UserStore, tmp_path: Path, key: str
) -> None:
    file, planted = buffer_file(site, key), pickle.dumps(Touch(tmp_path / "touched"))
    contents = file.read_bytes()
    file.write_bytes(with_checksum(contents[:HEADER] + planted.ljust(len(contents) - HEADER, b".")))
    if key == "list":
        with pytest.raises(TamperedValue, match="'list'"):
            store["list"]
    else:
        assert type(store["array"]) is np.ndarray  # It has become numbers.
    assert store["other"] == "untouched"
    assert_would_have_run(planted, tmp_path / "touched")


def assert_would_have_run(planted: bytes, touched: Path) -> None:
    assert not touched.exists()
    pickle.loads(planted)
    assert touched.exists()


# Moved


def test_a_row_that_was_given_to_another_user_session_or_key_is_refused(site: Site) -> None:
    browsers = [Browser(site), Browser(site)]
    for browser in browsers:
        browser.visit(nothing)
    stores = {session_owner(browser.id).name: site.middleware.open(browser.id) for browser in browsers}
    stores |= {f"u.{user}": site.middleware.for_user(user) for user in (1, 12)}
    for store in stores.values():
        store.update(a="mine", b="mine")
    rows = dict(site.database.execute('SELECT key, value FROM "values"').fetchall())
    assert len(rows) == 8
    replace = 'UPDATE "values" SET value = ? WHERE key = ?'
    for taken, given in itertools.permutations(rows, 2):
        site.database.execute(replace, (rows[taken], given))
        owner, _, key = given.partition("/")
        with pytest.raises(TamperedValue, match=f"'{key}'"):
            stores[owner][key]
        site.database.execute(replace, (rows[given], given))
    assert [store.copy() for store in stores.values()] == [{"a": "mine", "b": "mine"}] * 4


def test_a_row_that_names_the_file_of_another_users_value_is_refused(site: Site, store: UserStore) -> None:
    site.middleware.for_user("bob")["list"] = ["of Bob", *LIST]
    [of_bob] = site.database.execute("SELECT file FROM \"values\" WHERE key = 'u.bob/list'").fetchone()
    for key in ("list", "array"):
        plant(site, key, of_bob, "file")
        with pytest.raises(TamperedValue, match=f"'{key}'"):
            store[key]
    assert site.middleware.for_user("bob")["list"][0] == "of Bob"


# Read


@pytest.mark.parametrize("suffix", ["-wal", "-shm", ".buffers"])
def test_what_lies_beside_the_database_is_refused_when_it_is_a_link_and_nothing_behind_it_is_changed(
    clock: HandClock, tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / "target"
    target.mkdir() if suffix == ".buffers" else target.touch()
    target.chmod(0o755)
    Path(f"{tmp_path}/store.sqlite{suffix}").symlink_to(target)
    with pytest.raises(StorageError, match=rf"store\.sqlite{suffix}"):
        Site(clock, tmp_path).middleware.opened()
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_directory_of_large_values_that_others_could_enter_is_closed_to_them(site: Site, store: UserStore) -> None:
    directory = buffer_file(site, "array").parent
    directory.chmod(0o777)
    Site(HandClock(), directory.parent)
    assert directory.stat().st_mode & 0o777 == 0o700


def everything_in(folder: Path) -> bytes:
    return b"".join(path.name.encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_files_hold_nothing_that_opens_a_session(site: Site, tmp_path: Path) -> None:
    browsers = [Browser(site) for _ in range(3)]
    cookies = []
    for browser in browsers:
        browser.visit(lambda store: store.update(name="findable", large=LIST))
        cookies.append(browser.cookie)
        browser.visit(UserStore.regenerate)
        cookies.append(browser.cookie)
    browsers[0].visit(UserStore.destroy)
    browsers[1].visit(lambda store: store.update(more="findable"))
    contents = everything_in(tmp_path / "data")
    assert b"findable" in contents
    assert session_owner(browsers[1].id).name.encode() in contents
    for cookie in cookies:
        session_id, _, issued, signature = cookie.removeprefix("user_store=").split(".")
        secret = session_id[20:]  # What comes before names the owner, and opens nothing.
        bits = base64.urlsafe_b64decode(secret)
        for text in (secret, signature, f".{issued}.", bits.hex(), base64.b64encode(bits).decode()):
            assert text.encode() not in contents
        assert bits not in contents


REMOVALS: dict[str, Callable[[Browser, HandClock], object]] = {
    "del": lambda browser, clock: browser.visit(lambda store: store.pop("small") and store.pop("large")),
    "clear": lambda browser, clock: browser.visit(UserStore.clear),
    "overwrite": lambda browser, clock: browser.visit(lambda store: store.update(small="", large="")),
    "destroy": lambda browser, clock: browser.visit(UserStore.destroy),
    "idle time": lambda browser, clock: clock.step(TTL + 1),
    "lifetime": lambda browser, clock: clock.step(LIFETIME + 1),
}


@pytest.mark.parametrize("name", REMOVALS)
def test_what_was_deleted_or_has_expired_is_in_no_file_once_purge_has_run(
    site: Site, clock: HandClock, tmp_path: Path, name: str
) -> None:
    browser, other = Browser(site), Browser(site)
    other.visit(lambda store: store.update(name="of another"))
    browser.visit(lambda store: store.update(small="deleted, small" * 9, large="deleted, large" * BUFFER_THRESHOLD))
    assert b"deleted, small" in everything_in(tmp_path / "data")
    assert b"deleted, large" in everything_in(tmp_path / "data")
    REMOVALS[name](browser, clock)
    site.middleware.purge()
    contents = everything_in(tmp_path / "data")
    assert b"deleted, " not in contents
    assert (b"of another" in contents) == (name not in {"idle time", "lifetime"})
