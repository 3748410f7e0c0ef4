"""A backup is of one point in time, whatever is written meanwhile; a restore puts all of it back, and no ended session.

Promises: docs/reliability.md, "Backup and restore".
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import apsw
import pytest
import sqlite_file
from faults import write_lock_held
from flask import Flask
from http_visitor import Visitor, ask_both_workers
from servers import Port, gunicorn, running

from flask_dash_store import SessionEnded, UserStore, UserStoreMiddleware
from flask_dash_store.storage.sqlite import SqliteStorage

APPS = Path(__file__).parents[1] / "support" / "apps"
SECRET = "only for these tests"
LARGE = 200_000
TIMEOUT = 60
SESSION_ID = "a" * 64


def large(n: int) -> str:
    return f"{n:08}" * (LARGE // 8)


class Site:
    """A running server of two processes, and the command for its store."""

    def __init__(self, port: int, database: Path) -> None:
        self.port = port
        self.database = database

    def visitor(self) -> Visitor:
        visitor = Visitor(self.port)
        visitor.do("GET", "/values")
        return visitor

    def command(self, *args: object, database: Path | None = None) -> str:
        """What `flask user-store` prints."""
        command = [sys.executable, "-m", "flask", "--app", "fault_app:server", "user-store", *map(str, args)]
        environ = os.environ | environ_for(database or self.database)
        done = subprocess.run(command, cwd=APPS, env=environ, capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode == 0, done.stderr
        return done.stdout


def environ_for(database: Path) -> dict[str, str]:
    return {"FLASK_SECRET_KEY": SECRET, "FLASK_USER_STORE_URL": f"sqlite:///{database}"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("backup")
    database = folder / "store.sqlite"
    with closing(Port()) as port:
        command = gunicorn("fault_app:server", port.number, APPS)
        with running(command, port.number, folder, environ_for(database)):
            yield Site(port.number, database)


class Stores(UserStoreMiddleware):
    """An app's stores in this process, and its command for them."""

    def __init__(self, database: Path, **options: Any) -> None:
        self.app = Flask("backup")
        self.app.secret_key = SECRET
        super().__init__(self.app, url=f"sqlite:///{database}", **options)

    def run(self, *args: object) -> tuple[int, str]:
        """The exit status of `flask user-store`, and what it prints."""
        result = self.app.test_cli_runner().invoke(args=["user-store", *map(str, args)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output


def session_in(stores: Stores, visitor: Visitor) -> UserStore:
    assert visitor.cookie is not None
    return stores.open(visitor.cookie.partition(".")[0])


@contextmanager
def repeating(*calls: Callable[[int], Any]) -> Iterator[None]:
    """Each is called again and again in a thread of its own, at least once, until the block ends."""
    stop = Event()

    def repeat(call: Callable[[int], Any], has_begun: Event) -> None:
        n = 0
        while n == 0 or not stop.is_set():
            call(n := n + 1)
            has_begun.set()

    begun = [Event() for _ in calls]
    with ThreadPoolExecutor(len(calls)) as threads:
        ends = [threads.submit(repeat, *each) for each in zip(calls, begun, strict=True)]
        try:
            assert all(event.wait(TIMEOUT) for event in begun)
            yield
        finally:
            stop.set()
        for end in ends:
            end.result(TIMEOUT)


def test_a_backup_under_load_is_of_one_point_in_time_and_whole(site: Site, tmp_path: Path) -> None:
    visitors = [site.visitor() for _ in range(4)]
    copies = [tmp_path / f"copy-{number}" for number in range(12)]
    with repeating(*(lambda n, v=visitor: v.do("PUT", "/pair", large(n)) for visitor in visitors)):
        site.command("backup", copies[0])
        beside = SqliteStorage(site.database)
        for copy in copies[1:]:
            beside.back_up(copy)
        beside.close()
    for copy in copies:
        stores = Stores(copy)
        assert sqlite_file.problems(copy) == []
        for visitor in visitors:
            values = session_in(stores, visitor).copy()
            assert values["left"] == values["right"] == values["left"][:8] * (LARGE // 8)
        assert len(list(Path(f"{copy}.buffers").iterdir())) == 2 * len(visitors)
    assert [path for path in site.database.parent.iterdir() if "backup-" in path.name] == []


def test_a_restore_into_a_running_app_is_seen_by_all_at_once_and_no_ended_session_comes_back(
    site: Site, tmp_path: Path
) -> None:
    ann, bob, dan = (site.visitor() for _ in range(3))
    for visitor in (ann, bob, dan):
        visitor.do("PUT", "/pair", large(1))
    site.command("backup", tmp_path / "copy")
    ann.do("PUT", "/pair", large(2))
    ann.do("PUT", "/values/later", large(3))
    former_bob, ended = Visitor(bob.port, bob.cookie), Visitor(bob.port, bob.cookie)
    bob.do("POST", "/destroy")
    carol = site.visitor()
    carol.do("PUT", "/pair", large(4))

    def look(_: int) -> None:
        values = ann.do("GET", "/values")["values"]
        assert values["left"] == values["right"]
        assert values["left"] in (large(1), large(2))
        assert ("later" in values) == (values["left"] == large(2))

    with repeating(look, look, lambda n: dan.do("PUT", "/pair", large(n))):
        assert "Restored" in site.command("restore", tmp_path / "copy", "--yes")

    for answer in ask_both_workers(ann, "GET", "/values"):
        assert answer.body["values"] == {"left": large(1), "right": large(1)}
    for dead in (former_bob, bob):
        assert dead.do("GET", "/values")["values"] == {}
    with pytest.raises(SessionEnded):
        session_in(Stores(site.database), ended)["key"] = 1
    assert carol.do("GET", "/values")["values"] == {}
    carol.do("PUT", "/values/key", "goes on")
    assert "No damage" in site.command("check")


def test_a_restore_where_there_is_no_file_brings_back_every_session_and_user(site: Site, tmp_path: Path) -> None:
    ann = site.visitor()
    ann.do("PUT", "/pair", large(1))
    ann.do("PUT", "/values/small", 1)
    site.command("backup", tmp_path / "copy")
    site.command("restore", tmp_path / "copy", "--yes", database=tmp_path / "new" / "store.sqlite")
    assert "No damage" in site.command("check", database=tmp_path / "new" / "store.sqlite")
    stores = Stores(tmp_path / "new" / "store.sqlite")
    assert session_in(stores, ann).copy() == {"left": large(1), "right": large(1), "small": 1}


# What goes wrong


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def stores(database: Path) -> Stores:
    stores = Stores(database)
    stores.for_user("ann").update(small=1, large=large(1))
    return stores


@pytest.mark.parametrize("taken", ["copy", "copy.buffers"])
def test_a_backup_overwrites_nothing(stores: Stores, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    status, output = stores.run("backup", tmp_path / "copy")
    assert (status, "already exists" in output) == (1, True)
    assert (tmp_path / taken).read_text() == "precious"


def test_a_backup_that_cannot_be_written_is_an_error_and_leaves_nothing(stores: Stores, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "file").touch()
    status, output = stores.run("backup", tmp_path / "file" / "copy")
    assert (status, output.startswith("Error: ")) == (1, True)
    (tmp_path / "file").unlink()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: os.truncate(file, LARGE // 2)], ids=["missing", "torn"])
def test_a_backup_leaves_out_what_is_damaged_by_name_and_can_be_restored(
    stores: Stores, tmp_path: Path, database: Path, damage: Callable[[Path], None]
) -> None:
    stores.for_user("bob")["large"] = large(2)
    (file, *_) = sorted(Path(f"{database}.buffers").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damage(file)  # Ann's, which was written first.
    status, output = stores.run("backup", tmp_path / "copy")
    assert (status, "Left out 'large' of u.ann…" in output) == (1, True)
    assert stores.run("restore", tmp_path / "copy", "--yes")[0] == 0
    assert stores.for_user("ann") == {"small": 1}
    assert stores.for_user("bob") == {"large": large(2)}


def no_file(copy: Path) -> None:
    copy.unlink()


def no_database(copy: Path) -> None:
    copy.write_bytes(b"No database. " * 1000)


def a_newer_format(copy: Path) -> None:
    connection = apsw.Connection(str(copy))
    connection.execute("PRAGMA user_version = 1000")
    connection.close()


def no_tables(copy: Path) -> None:
    copy.write_bytes(b"")


def noise(copy: Path) -> None:
    with copy.open("r+b") as file:
        for page in range(2, copy.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(os.urandom(4096))


def no_buffers(copy: Path) -> None:
    for file in Path(f"{copy}.buffers").iterdir():
        file.unlink()


def half_a_buffer(copy: Path) -> None:
    for file in Path(f"{copy}.buffers").iterdir():
        os.truncate(file, LARGE // 2)


@pytest.mark.parametrize("damage", [no_file, no_database, a_newer_format, no_tables, noise, no_buffers, half_a_buffer])
def test_a_restore_of_what_is_not_a_whole_backup_is_an_error_and_changes_nothing(
    stores: Stores, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    copy = tmp_path / "copy"
    assert stores.run("backup", copy)[0] == 0
    damage(copy)
    store = stores.for_user("ann")
    store["small"] = 2
    store["large"] = large(2)
    status, output = stores.run("restore", copy, "--yes")
    assert (status, output.startswith("Error: ")) == (1, True)
    assert store.copy() == {"small": 2, "large": large(2)}


def test_a_restore_asks_first_and_takes_no_file_that_is_in_use(stores: Stores, database: Path) -> None:
    assert stores.run("restore", database, "--yes")[0] == 1
    assert stores.run("backup", database.with_name("copy"))[0] == 0
    stores.for_user("ann")["small"] = 2
    assert stores.run("restore", database.with_name("copy"))[0] == 1
    assert stores.for_user("ann")["small"] == 2


def test_a_restore_waits_for_other_writers_no_longer_than_its_deadline(tmp_path: Path, database: Path) -> None:
    stores = Stores(database, timeout=0.2)
    stores.for_user("ann")["small"] = 1
    assert stores.run("backup", tmp_path / "copy")[0] == 0
    with write_lock_held(database):
        status, output = stores.run("restore", tmp_path / "copy", "--yes")
        assert (status, "USER_STORE_TIMEOUT" in output) == (1, True), output
    assert stores.run("restore", tmp_path / "copy", "--yes")[0] == 0


def test_a_session_that_got_another_id_since_the_backup_keeps_it_and_the_former_one_stays_dead(
    stores: Stores, tmp_path: Path
) -> None:
    session = stores.open(SESSION_ID)
    session["secret"] = 1
    assert stores.run("backup", tmp_path / "copy")[0] == 0
    session.regenerate(user_id="ann")
    session["secret"] = 2
    assert stores.run("restore", tmp_path / "copy", "--yes")[0] == 0
    assert stores.open(SESSION_ID).copy() == {}
    with pytest.raises(SessionEnded):
        stores.open(SESSION_ID)["secret"] = 3
    assert session.copy() == {"secret": 1}
    assert stores.end_sessions("ann") == 1


def test_an_id_that_was_replaced_since_the_backup_stays_dead_if_the_backup_has_nothing_of_it(
    stores: Stores, tmp_path: Path
) -> None:
    assert stores.run("backup", tmp_path / "copy")[0] == 0
    session = stores.open(SESSION_ID)
    session["secret"] = 1
    session.regenerate()
    assert stores.run("restore", tmp_path / "copy", "--yes")[0] == 0
    with pytest.raises(SessionEnded):
        stores.open(SESSION_ID)["planted"] = 1
    assert session.copy() == {}
    session["goes on"] = 1
    assert session.copy() == {"goes on": 1}
    assert sqlite_file.problems(Path(stores.opened().storage.filename)) == []
