"""A fault under a running server of two processes costs the requests that hit it an error of the package's own.

They get it within their deadline, all others go on, and when the fault ends the service works again by itself. Only a
file that was put in the place of the database needs a restart, and is left as it is until then.

Promises: docs/reliability.md, "Each call in its time, and each error where it belongs" and "Damage stays small".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlite_file
from faults import bound_by_modes, closed, write_lock_held
from http_visitor import NOTHING, Visitor, ask_both_workers
from servers import Port, gunicorn, running

from flask_dash_store import DashDatabase, StorageError
from flask_dash_store.storage.sqlite import SqliteStorage

APPS = Path(__file__).parents[1] / "support" / "apps"
LARGE = 200_000
TIMEOUT = 1
MARGIN = 10


class Site:
    def __init__(self, port: int, database: Path) -> None:
        self.port = port
        self.database = database

    def visitor(self) -> Visitor:
        visitor = Visitor(self.port)
        ask_both_workers(visitor, "GET", "/values")
        return visitor

    def back_up(self) -> Path:
        copy = self.database.with_name(f"{time.monotonic_ns()}.sqlite")
        back_up(self.database, copy)
        return copy


def back_up(database: Path, copy: Path) -> None:
    storage = SqliteStorage(database)
    storage.back_up(copy)
    storage.close()


@contextmanager
def serving(port: int, folder: Path) -> Iterator[Site]:
    """A server, while the block lasts."""
    database = folder / "data" / "store.sqlite"
    environ = {
        "FLASK_SECRET_KEY": "only for these tests",
        "FLASK_USER_STORE_URL": f"sqlite:///{database}",
        "FLASK_USER_STORE_TIMEOUT": str(TIMEOUT),
    }
    with running(bound_by_modes(gunicorn("fault_app:server", port, APPS)), port, folder, environ):
        yield Site(port, database)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with closing(Port()) as port, serving(port.number, tmp_path_factory.mktemp("faults")) as site:
        yield site


def errors(visitor: Visitor, method: str, path: str, value: Any = NOTHING) -> set[str]:
    """The errors that both workers answer with, all of them within their deadline."""
    began = time.monotonic()
    answers = ask_both_workers(visitor, method, path, value)
    rounds = len(answers) / 8
    assert time.monotonic() - began < rounds * TIMEOUT + MARGIN
    assert {answer.status for answer in answers} == {503}
    return {answer.body["error"] for answer in answers}


def all_do(visitor: Visitor, method: str, path: str, value: Any = NOTHING) -> list[dict[str, Any]]:
    """What both workers answer, without an error."""
    answers = ask_both_workers(visitor, method, path, value)
    assert {answer.status for answer in answers} == {200}, answers
    return [answer.body for answer in answers]


def seen_by_all(visitor: Visitor) -> dict[str, Any]:
    """The values, which both workers see alike."""
    first, *others = [body["values"] for body in all_do(visitor, "GET", "/values")]
    assert others == [first] * len(others)
    return first


def test_a_lock_held_longer_than_the_deadline_is_an_error_of_writers_alone(site: Site) -> None:
    visitor = site.visitor()
    visitor.do("PUT", "/values/key", "before")
    with write_lock_held(site.database):
        assert errors(visitor, "PUT", "/values/key", "meanwhile") == {"StorageBusy"}
        assert errors(visitor, "POST", "/destroy") == {"StorageBusy"}
        assert seen_by_all(visitor) == {"key": "before"}
    all_do(visitor, "PUT", "/values/key", "after")
    assert seen_by_all(visitor) == {"key": "after"}


def test_a_directory_that_is_closed_takes_no_large_values_and_all_else_goes_on(site: Site) -> None:
    visitor = site.visitor()
    visitor.do("PUT", "/values/large", "before" * LARGE)
    buffers = Path(f"{site.database}.buffers")
    with closed(site.database.parent, buffers):
        assert errors(visitor, "PUT", "/values/large", "meanwhile" * LARGE) == {"StorageError"}
        all_do(visitor, "PUT", "/values/small", 1)
        assert seen_by_all(visitor) == {"large": "before" * LARGE, "small": 1}
    all_do(visitor, "PUT", "/values/large", "after" * LARGE)
    assert seen_by_all(visitor) == {"large": "after" * LARGE, "small": 1}


@pytest.mark.parametrize("moved", [("",), ("", "-wal", "-shm")], ids=["the file", "all its files"])
def test_a_database_that_is_moved_away_takes_no_writes_until_it_is_put_back(site: Site, moved: tuple[str, ...]) -> None:
    visitor = site.visitor()
    visitor.do("PUT", "/values/key", "before")
    elsewhere = site.database.with_name("elsewhere")
    with ExitStack() as stack:
        for suffix in moved:
            here, there = Path(f"{site.database}{suffix}"), Path(f"{elsewhere}{suffix}")
            here.rename(there)
            stack.callback(there.rename, here)
        assert errors(visitor, "PUT", "/values/key", "meanwhile") == {"StorageError"}
        assert errors(visitor, "POST", "/destroy") == {"StorageError"}
        assert "was deleted" in visitor.ask("PUT", "/values/key", 1).body["message"]
        assert not site.database.exists()
    all_do(visitor, "PUT", "/values/more", "after")
    assert seen_by_all(visitor) == {"key": "before", "more": "after"}


@contextmanager
def replaced_by(other: Path, database: Path) -> Iterator[None]:
    """Another file is in the place of the database, which is put back after the block."""
    elsewhere = database.with_name("elsewhere")
    database.rename(elsewhere)
    other.rename(database)
    try:
        yield
    finally:
        elsewhere.replace(database)


def no_database(site: Site) -> Path:
    other = site.database.with_name("other")
    other.write_bytes(b"No database. " * 1000)
    return other


@pytest.mark.parametrize("make_other", [Site.back_up, no_database], ids=["a copy", "no database"])
def test_another_file_in_its_place_is_left_as_it_is_and_takes_no_writes_until_the_database_is_put_back(
    site: Site, make_other: Callable[[Site], Path]
) -> None:
    visitor = site.visitor()
    visitor.do("PUT", "/values/key", "before")
    other = make_other(site)
    contents = other.read_bytes()
    with replaced_by(other, site.database):
        assert errors(visitor, "PUT", "/values/key", "meanwhile") == {"StorageError"}
        assert errors(visitor, "POST", "/destroy") == {"StorageError"}
        assert "Restart the app" in visitor.ask("PUT", "/values/key", 1).body["message"]
        assert site.database.read_bytes() == contents
    all_do(visitor, "PUT", "/values/more", "after")
    assert seen_by_all(visitor) == {"key": "before", "more": "after"}


def test_another_store_in_its_place_is_used_after_a_restart(tmp_path: Path) -> None:
    with closing(Port()) as port:
        with serving(port.number, tmp_path) as site:
            visitor = site.visitor()
            visitor.do("PUT", "/values/key", "in the copy")
            copy = site.back_up()
            visitor.do("PUT", "/values/key", "after the copy")
            replace(site.database, copy)
            assert errors(visitor, "PUT", "/values/key", "lost") == {"StorageError"}
        with serving(port.number, tmp_path) as site:
            all_do(visitor, "PUT", "/values/more", 1)
            assert seen_by_all(visitor) == {"key": "in the copy", "more": 1}
    assert sqlite_file.problems(site.database) == []


def replace(database: Path, copy: Path) -> None:
    """Put a copy in the place of a database, without what SQLite has beside it, which belongs to the former one."""
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    os.replace(copy, database)


def test_a_database_that_is_deleted_is_missed_until_a_copy_is_in_its_place_and_the_app_restarted(
    tmp_path: Path,
) -> None:
    database, copy = tmp_path / "store.sqlite", tmp_path / "copy"
    with DashDatabase(database, secret_key="k" * 32) as stores:
        stores.store_user_value("ann", "key", "in the copy")
        back_up(database, copy)
        database.unlink()
        with pytest.raises(StorageError, match="was deleted"):
            stores.store_user_value("ann", "key", "meanwhile")
        assert not database.exists()
        replace(database, copy)
        with pytest.raises(StorageError, match="Restart"):
            stores.store_user_value("ann", "key", "meanwhile")
    with DashDatabase(database, secret_key="k" * 32) as stores:
        stores.store_user_value("ann", "more", 1)
        assert [stores.get_user_value("ann", key) for key in ("key", "more")] == ["in the copy", 1]


def test_a_database_that_was_moved_away_with_its_files_holds_what_was_acknowledged(tmp_path: Path) -> None:
    database, elsewhere = tmp_path / "store.sqlite", tmp_path / "elsewhere" / "store.sqlite"
    elsewhere.parent.mkdir(mode=0o700)
    with DashDatabase(database, secret_key="k" * 32) as stores:
        back_up(database, tmp_path / "copy")
        stores.store_user_value("ann", "key", "before")
        for suffix in ("", "-wal", "-shm"):
            Path(f"{database}{suffix}").rename(f"{elsewhere}{suffix}")
        (tmp_path / "copy").rename(database)
        with pytest.raises(StorageError, match="Restart"):
            stores.store_user_value("ann", "key", "after")
        with DashDatabase(elsewhere, secret_key="k" * 32) as former:
            assert former.get_user_value("ann", "key") == "before"
    with DashDatabase(database, secret_key="k" * 32) as copied:
        assert copied.users() == []


def test_a_page_of_noise_is_an_error_of_those_who_read_it_until_a_copy_is_in_its_place(tmp_path: Path) -> None:
    marker = "marker" * 500
    with closing(Port()) as port:
        with serving(port.number, tmp_path) as site:
            ann, bob = site.visitor(), site.visitor()
            ann.do("PUT", "/values/key", marker)
            for n in range(100):
                bob.do("PUT", f"/values/{n}", "x" * 1000)
            bob.do("POST", "/purge")  # Now all of it is in the file itself.
            copy = site.back_up()
            with site.database.open("r+b") as file:
                file.seek(file.read().index(marker[:1000].encode()) // 4096 * 4096)
                file.write(os.urandom(4096))
            all_do(bob, "PUT", "/values/50", "y" * 1000)  # What others write has each process read the file again.
            assert errors(ann, "GET", "/values") == {"StorageCorrupt"}
            assert bob.do("GET", "/values/99")["value"] == "x" * 1000
        replace(site.database, copy)
        with serving(port.number, tmp_path):
            assert seen_by_all(ann) == {"key": marker}
