"""`flask user-store copy` moves a live store between any two backends, and `import` brings dash_database's files in."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import apsw
import pandas as pd
import pytest
from click.testing import Result
from clocks import HandClock
from flask import Flask
from urls import URLS, end_leases, sqlite
from visits import LIFETIME, SECRET, TTL, Browser, Site, read, write

from flask_dash_store import SessionEnded, TamperedValue, UserStore, UserStoreMiddleware
from flask_dash_store.codec import BUFFER_THRESHOLD
from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.owner import user_owner
from flask_dash_store.signer import Signer
from flask_dash_store.storage import StorageOptions, open_storage
from flask_dash_store.storage.base import Dump, Value
from flask_dash_store.transfer import copy

APPS = Path(__file__).parents[1] / "support" / "apps"
FRAME = pd.DataFrame({"number": range(50_000), "text": [f"row {n}" for n in range(50_000)]})
TEXT = "é" * BUFFER_THRESHOLD


@pytest.fixture
def clock() -> HandClock:
    """One that begins now: `copy` has no clock but the system's."""
    return HandClock(time.time())


@dataclass
class Move:
    """An app before its move and after it, and how to move it."""

    folder: Path
    clock: HandClock
    urls: tuple[str, str]

    def site(self, url: str) -> Site:
        return Site(self.clock, self.folder, url=url)

    @property
    def before(self) -> Site:
        return self.site(self.urls[0])

    @property
    def after(self) -> Site:
        return self.site(self.urls[1])

    def copy(self) -> Result:
        return run(self.before.app, "copy", *self.urls)

    def open(self) -> tuple[Any, Any]:
        options = StorageOptions(self.folder, keep_ended=LIFETIME)
        return open_storage(self.urls[0], options), open_storage(self.urls[1], options)


def run(app: Flask, *command: str) -> Result:
    result = app.test_cli_runner().invoke(args=["user-store", *command])
    assert "Traceback" not in result.output
    assert isinstance(result.exception, (SystemExit, type(None))), result.exception
    return result


def pair(name: str, other: str) -> Any:
    return pytest.param((URLS[name], URLS[other]), id=f"{name} to {other}")


@pytest.fixture(params=[pair(*names) for names in [("sqlite", "sqlite"), *itertools.permutations(URLS, 2)]])
def move(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Move:
    """From each backend to each of the others, and from one file to another."""
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder in folders:
        folder.mkdir()
    source, target = (make(folder) for make, folder in zip(request.param, folders, strict=True))
    return Move(tmp_path, clock, (source, target))


def everything(storage: Any) -> dict[str, Any]:
    """All that a storage keeps, byte for byte and in order."""
    return {name: plain(storage.dump(name)) for name in storage.all_owners()}


def assert_equal(move: Move) -> None:
    source, target = map(everything, move.open())
    assert source == target


def plain(dump: Dump | None) -> Any:
    return dump and dump._replace(values=[plain_value(value) for value in dump.values])


def plain_value(value: Value) -> Any:
    key, (payload, buffers), expires = value
    return key, payload, buffers and (buffers.name, bytes(buffers.joined())), expires


# What arrives


def test_an_app_goes_on_with_the_new_url_as_if_nothing_had_happened(move: Move) -> None:
    ada = Browser(move.before)
    ada.visit(lambda store: store.update(z=1, gone=2, text=TEXT, frame=FRAME))
    ada.visit(lambda store: (store.pop("gone"), store.set("code", 9, ttl=100), store.update(z=[1], name="Ada")))
    expires_at = ada.visit(lambda store: store.expires_at)
    nbytes = ada.visit(lambda store: store.nbytes)

    result = move.copy()
    assert (result.exit_code, result.output.splitlines()[-1]) == (
        0,
        "Copied 1 sessions and users; 0 were there already.",
    )

    ada = Browser(move.after, ada.cookie)
    assert ada.visit(lambda store: store.expires_at) == expires_at
    values = ada.visit(lambda store: store.copy())
    pd.testing.assert_frame_equal(values.pop("frame"), FRAME)
    assert list(values.items()) == [("z", [1]), ("text", TEXT), ("code", 9), ("name", "Ada")]
    assert ada.visit(lambda store: store.nbytes) == nbytes
    ada.visit(lambda store: store.update(later=1))
    move.clock.step(100)
    assert ada.visit(list) == ["z", "text", "frame", "name", "later"]
    move.clock.step(TTL)
    assert (ada.visit(dict), ada.cookies_received) == ({}, 0)


def test_sessions_that_have_ended_stay_ended(move: Move) -> None:
    browsers = {}
    for end in (UserStore.destroy, UserStore.regenerate):
        browsers[end] = Browser(move.before)
        browsers[end].visit(write)
        old = browsers[end].in_flight()
        browsers[end].visit(end)

        move.copy()

        late = Browser(move.after, old.cookie)
        assert late.visit(dict) == {}
        with pytest.raises(SessionEnded):
            move.after.middleware.open(old.id).update(name="Eve")
        assert Browser(move.after, browsers[end].cookie).visit(dict) == (
            {"name": "Ada"} if end is UserStore.regenerate else {}
        )


def test_users_are_kept_as_long_as_before(move: Move) -> None:
    stores = move.before.middleware
    stores.for_user("kept").update(name="Ada")
    stores.for_user("ann/%ü", ttl=50).update(name="Ann")
    stores.for_user("past", ttl=1).update(name="Eve")
    stores.for_user("past forever").set("name", 1, ttl=1)
    move.clock.step(1)

    move.copy()

    after = move.after.middleware
    ann = after.for_user("ann/%ü", ttl=50)
    assert [dict(after.for_user(name)) for name in ("kept", "past", "past forever")] == [{"name": "Ada"}, {}, {}]
    assert dict(ann) == {"name": "Ann"}
    move.clock.step(49)
    assert dict(ann) == {}
    move.clock.step(10 * LIFETIME)
    assert dict(after.for_user("kept")) == {"name": "Ada"}


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._file,)


def test_bytes_arrive_as_they_were_and_nothing_is_unpickled(move: Move, tmp_path: Path) -> None:
    marker = tmp_path / "was unpickled"
    source, target = move.open()
    store = move.before.middleware.for_user("ann")
    store.update(small=1, large=TEXT, own=Planted(marker))
    ann = user_owner("ann")
    planted = Signer([b"another app's"], b"pickle").sign(ann.name, "planted", pickle.dumps(Planted(marker)))
    source.set(ann, "planted", (planted, None), ExpiryPolicy(None, move.clock).access())
    before = everything(source)

    assert move.copy().exit_code == 0

    assert everything(source) == everything(target) == before
    assert not marker.exists()
    with pytest.raises(TamperedValue):
        move.after.middleware.for_user("ann")["planted"]
    assert not marker.exists()
    source.close(), target.close()


def test_a_session_that_has_ended_since_the_move_stays_ended_when_it_is_copied_again(move: Move) -> None:
    ada = Browser(move.before)
    ada.visit(write)
    move.copy()
    old, ada = ada.in_flight(move.after), ada.in_flight(move.after)
    ada.visit(UserStore.destroy)
    assert move.copy().output.splitlines()[-1] == "Copied 0 sessions and users; 1 were there already."
    assert old.visit(dict) == {}


def test_an_id_that_was_replaced_since_the_move_stays_dead_when_it_is_copied_again(move: Move) -> None:
    ada = Browser(move.before)
    ada.visit(write)
    move.copy()
    planted, ada = ada.in_flight(move.after), ada.in_flight(move.after)
    move.clock.step(1)
    ada.visit(lambda store: store.regenerate(user_id="ada"))
    ada.visit(lambda store: store.update(secret="ada's"))
    values = ada.visit(dict)
    assert move.copy().output.splitlines()[-1] == "Copied 0 sessions and users; 1 were there already."
    assert planted.visit(dict) == {}
    assert ada.visit(dict) == values


def test_a_session_that_was_renewed_since_the_move_ends_when_the_source_has_ended_it(move: Move) -> None:
    ada = Browser(move.before)
    ada.visit(write)
    move.copy()
    there = ada.in_flight(move.after)
    ada.visit(UserStore.destroy)
    move.clock.step(1)
    there.visit(UserStore.regenerate)
    move.copy()
    assert there.visit(dict) == {}


# In how many runs


def test_a_second_run_copies_what_has_changed_and_nothing_else(move: Move) -> None:
    stores = [move.before.middleware.for_user(number) for number in range(10)]
    browser = Browser(move.before)
    for store in stores:
        store.update(name=1, other=TEXT, third=3)
    browser.visit(write)

    def said(copied: int) -> str:
        return f"Copied {copied} sessions and users; {11 - copied} were there already."

    assert move.copy().output.splitlines()[-1] == said(11)
    assert move.copy().output.splitlines()[-1] == said(0)
    stores[0]["name"] = 2
    stores[1].expire("name", 100)
    del stores[2]["other"]
    stores[3].update(fourth=4)
    stores[4].clear()
    stores[5].update(other=TEXT.upper())
    stores[6].pop("third")
    stores[6].update(third=stores[6].pop("name"))  # another order
    move.clock.step(TTL / 2)
    browser.visit(read)  # moves the session's expiry
    assert move.copy().output.splitlines()[-1] == said(8)
    assert_equal(move)
    browser.visit(UserStore.destroy)
    move.copy()
    assert Browser(move.after, browser.cookie).visit(dict) == {}


def test_a_damaged_value_is_left_out_by_name_and_all_others_arrive(tmp_path: Path, clock: HandClock) -> None:
    move = Move(tmp_path, clock, (f"sqlite:///{tmp_path}/before.sqlite", f"sqlite:///{tmp_path}/after.sqlite"))
    for name in ("ann", "bob", "cai"):
        move.before.middleware.for_user(name).update(small=1, large=name * BUFFER_THRESHOLD)
    (file,) = Path(f"{tmp_path}/before.sqlite.buffers").glob(file_of(tmp_path / "before.sqlite", "u.bob/large"))
    file.unlink()
    result = move.copy()
    assert result.exit_code == 1
    assert "Left out 'large' of u.bob…" in result.output
    assert move.after.middleware.for_user("ann") == {"small": 1, "large": "ann" * BUFFER_THRESHOLD}
    assert move.after.middleware.for_user("cai") == {"small": 1, "large": "cai" * BUFFER_THRESHOLD}
    assert move.after.middleware.for_user("bob") == {"small": 1}


def file_of(database: Path, key: str) -> str:
    # The same library as the package's, so that closing it drops no locks.
    connection = apsw.Connection(str(database))
    try:
        return connection.execute('SELECT file FROM "values" WHERE key = ?', (key,)).get
    finally:
        connection.close()


def killed(work: Callable[[], None]) -> None:
    """Work in a process of its own, which kills itself in the middle of it."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FatalAt(list):
    """A list that kills the process that comes to its third element."""

    def __iter__(self) -> Any:
        for n in range(len(self)):
            if n == 2:
                kill_me()
            yield self[n]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_what_was_killed_midway_goes_on_where_it_stopped(move: Move) -> None:
    for number in range(10):
        move.before.middleware.for_user(number).update(a=number, b=TEXT, c=3, d=4)

    def copy_some() -> None:
        source, target = move.open()
        for count, _ in enumerate(copy(list(source.all_owners()), source, target, pytest.fail), 1):
            if count == 4:
                kill_me()

    def copy_half_of_one() -> None:
        source, target = move.open()
        name = user_owner(9).name
        dump = source.dump(name)
        target.load(name, dump._replace(values=FatalAt(dump.values)))

    killed(copy_some)
    killed(copy_half_of_one)
    end_leases(move.urls[1])
    arrived = everything(move.open()[1])
    assert all(len(dump.values) == 4 for dump in arrived.values()), "an owner arrives whole or not at all"
    assert len(arrived) in (4, 5)  # The half one may be among those that were copied before.

    assert move.copy().output.splitlines()[-1] == (
        f"Copied {10 - len(arrived)} sessions and users; {len(arrived)} were there already."
    )
    assert_equal(move)
    assert move.copy().output.splitlines()[-1] == "Copied 0 sessions and users; 10 were there already."


def test_while_the_app_goes_on_writing_it_copies_what_there_is_and_the_last_run_the_rest(move: Move) -> None:
    stores = [move.before.middleware.for_user(number) for number in range(5)]
    for store in stores:
        store.update(a=0, b=0)
    is_over = Event()

    def keep_writing() -> int:
        for count in itertools.count(1):
            for store in stores:
                store.update(a=count, b=count)
            if is_over.is_set():
                return count
        raise AssertionError

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(keep_writing)
        assert move.copy().exit_code == 0
        after = [move.after.middleware.for_user(number) for number in range(5)]
        assert all(store["a"] == store["b"] for store in map(UserStore.copy, after)), "each is of one point in time"
        is_over.set()
        last = writing.result(60)
    assert move.copy().exit_code == 0
    assert [store.copy() for store in after] == [{"a": last, "b": last}] * 5


# As it is typed


def test_it_runs_from_the_command_line_and_shows_how_far_it_is(tmp_path: Path) -> None:
    url, new_url = sqlite(tmp_path), f"sqlite:///{tmp_path}/new.sqlite"
    app = Flask(__name__)
    app.secret_key = SECRET
    stores = UserStoreMiddleware(app, url=url)
    for number in range(4):
        stores.for_user(number).update(name="Ann")
    terminal, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", str(APPS / "plain_app.py"), "user-store", "copy", url, new_url],
        cwd=tmp_path, env=os.environ | {"FLASK_SECRET_KEY": SECRET, "FLASK_USER_STORE_URL": url, "TERM": "xterm"},
        stdout=theirs, stderr=theirs, timeout=60,
    )  # fmt: skip
    os.close(theirs)
    with suppress(OSError), open(terminal, "rb", buffering=0) as output:
        shown = output.read(100_000).decode()
    assert done.returncode == 0
    for said in ("Copying", "  0%", "100%", "Copied 4 sessions and users; 0 were there already."):
        assert said in shown


def test_a_file_to_copy_from_that_is_not_there_is_a_message_and_not_made(tmp_path: Path, clock: HandClock) -> None:
    result = run(Site(clock, tmp_path).app, "copy", f"sqlite:///{tmp_path}/typo.sqlite", "sqlite:///new.sqlite")
    assert (result.exit_code, (tmp_path / "typo.sqlite").exists()) == (1, False)
    assert "typo.sqlite" in result.output


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("mysql://host/db", "USER_STORE_URL"),
        ("sqlite:////dev/null/store.sqlite", "/dev/null"),
        ("unix:///no/such/socket", "no/such/socket"),
        ("redis://127.0.0.1:1/0", "127.0.0.1:1"),
        ("redis://host/nonsense?x=1", "USER_STORE_URL"),
        ("postgresql://nobody@127.0.0.1:1/db", "127.0.0.1"),
        ("postgresql://host/db?nonsense=1", "query parameter"),
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_a_wrong_url_is_a_message_and_changes_nothing(
    tmp_path: Path, clock: HandClock, wrong: str, message: str, position: int
) -> None:
    url = sqlite(tmp_path)
    site = Site(clock, tmp_path, url=url, timeout=1)
    site.middleware.for_user("ann").update(name="Ann")
    urls = [url, url]
    urls[position] = wrong
    result = run(site.app, "copy", *urls)
    assert result.exit_code == 1
    assert message in result.output.partition("Error: ")[2]
    assert dict(site.middleware.for_user("ann")) == {"name": "Ann"}
