"""What the SQLite storage promises beyond the contract: its file, its neighbours, its forks."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import apsw
import pytest
from backends import Child, items, small
from flask_dash_store.storage.sqlite.purging import PAGES_TOGETHER, PURGED_TOGETHER
from sqlite_file import execute

from flask_dash_store import DashDatabase
from flask_dash_store.errors import StorageBusy, StorageClosed, StorageCorrupt, StorageError
from flask_dash_store.expiry import Access
from flask_dash_store.storage.sqlite import SqliteStorage, schema

NOW = Access(1000, 2000, 0)
LATER = Access(2000, 3000, 0)

# Plain sqlite3 may not open the file in this process: closing it would drop the locks of the storage.
ASK_SQLITE3 = """
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
print(json.dumps(connection.execute(sys.argv[2]).fetchall()))
"""
ASK_SQLITEDICT = """
import json, sys
from sqlitedict import SqliteDict
with SqliteDict(sys.argv[1], tablename="values", flag="r", journal_mode="WAL") as table:
    print(json.dumps([SqliteDict.get_tablenames(sys.argv[1]), list(table), list(table.values())]))
"""
HOLD_THE_WRITE_LOCK = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""
FORK_WITH_A_TEMPORARY_FILE = """
import os, sys
from pathlib import Path
from flask_dash_store.storage.sqlite import SqliteStorage
storage = SqliteStorage(None)
if os.fork() == 0:
    storage.close()
    sys.exit()
os.wait()
print(storage.filename, Path(storage.filename).exists())
"""


def run(script: str, *args: object) -> str:
    """What a script prints that runs in a Python of its own."""
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def write(storage: SqliteStorage, key: str) -> list[str]:
    storage.set("ann", key, small(b""), NOW)
    return storage.keys("ann", NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.sqlite"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteStorage]:
    storage = SqliteStorage(path, timeout=10)
    yield storage
    storage.close()


# The file


def test_stock_sqlitedict_lists_the_file_and_reads_its_small_values_while_it_is_in_use(path) -> None:
    with DashDatabase(path, secret_key="k" * 32) as db:
        db.store_user_value("ann", "n", 1)
        db.store_user_value("bob", "list", ["a", None])
        tables, keys, values = json.loads(run(ASK_SQLITEDICT, path))
        db.store_user_value("ann", "n", 2)
        assert db.get_user_value("ann", "n") == 2
    assert {"values", "sessions"} <= set(tables)
    assert dict(zip(keys, values, strict=True)) == {"u.ann/n": 1, "u.bob/list": ["a", None]}


def test_its_own_tables_are_sqlitedict_tables_that_raise_where_they_are_called(storage) -> None:
    storage.values["ann/k"] = b"raw"
    assert (list(storage.values), storage.values["ann/k"], len(storage.values)) == (["ann/k"], b"raw", 1)
    with pytest.raises(StorageError):
        storage.values.conn.execute("INSERT INTO nowhere VALUES (1)")


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("auto_vacuum", 2), ("secure_delete", 1), ("synchronous", 1)]
)
def test_the_database_is_set_up_as_promised(connections, storage, pragma, value) -> None:
    assert connections[-1].pragma(pragma) == value


def test_synchronous_full_is_a_setting(connections, path) -> None:
    storage = SqliteStorage(path, synchronous="FULL")
    assert connections[-1].pragma("synchronous") == 2
    storage.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_and_new_directories_are_for_their_owner_alone_whatever_the_umask(tmp_path, umask) -> None:
    before = os.umask(umask)
    try:
        storage = SqliteStorage(tmp_path / "new" / "newer" / "values.sqlite")
    finally:
        os.umask(before)
    storage.set("ann", "k", small(b""), NOW)
    made = sorted(path for path in tmp_path.rglob("*"))
    modes = {path.name: mode(path) for path in made}
    storage.close()
    files = {f"values.sqlite{suffix}": 0o600 for suffix in ("", "-shm", "-wal", "-reserve")}
    assert modes == files | {"new": 0o700, "newer": 0o700}


def test_a_file_that_others_could_read_is_closed_to_them(path) -> None:
    path.touch(0o666)
    path.chmod(0o666)
    SqliteStorage(path).close()
    assert mode(path) == 0o600


def foreign(folder: Path) -> Path:
    """A file of another user. Only root can make one; for all others root's own will do."""
    if os.geteuid() != 0:
        return Path("/etc/passwd")
    path = folder / "foreign"
    path.touch()
    os.chown(path, 65534, 65534)
    return path


def link(folder: Path) -> Path:
    (folder / "target").touch()
    (folder / "link").symlink_to(folder / "target")
    return folder / "link"


def dangling_link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link"


@pytest.mark.parametrize("make", [foreign, link, dangling_link, lambda folder: folder])
def test_what_is_no_file_of_this_user_is_refused(tmp_path, make) -> None:
    path = make(tmp_path)
    before = {each: each.lstat() for each in [path, *tmp_path.iterdir()]}
    with pytest.raises(StorageError, match=str(path)):
        SqliteStorage(path)
    assert {each: each.lstat() for each in [path, *tmp_path.iterdir()]} == before


@pytest.mark.parametrize("content", [b"No database. " * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_reported_and_left_as_it_is(path, content) -> None:
    path.write_bytes(content)
    with pytest.raises(StorageCorrupt, match=str(path)):
        SqliteStorage(path)
    assert path.read_bytes() == content


def test_a_damaged_database_is_reported_and_left_as_it_is(path) -> None:
    storage = SqliteStorage(path)
    storage.set("ann", "k", small(b"v" * 50_000), NOW)
    storage.close()
    damaged = path.read_bytes()[:4096] + b"\xff" * 4096 * 20
    path.write_bytes(damaged)
    with pytest.raises(StorageCorrupt, match=str(path)):
        SqliteStorage(path).get("ann", "k", NOW)
    assert path.read_bytes() == damaged


def test_deleted_values_are_overwritten(storage, path) -> None:
    storage.set("ann", "k", small(b"a secret"), NOW)
    storage.delete("ann", "k", NOW)
    storage.close()
    assert b"a secret" not in path.read_bytes()


# Expiry and purging


@pytest.mark.parametrize("expiry", ["NULL", "'tomorrow'", "x'ff'"])
def test_a_missing_or_unreadable_expiry_means_expired(storage, path, expiry) -> None:
    storage.set("ann", "k", small(b"v"), NOW)
    run(ASK_SQLITE3, path, f'UPDATE "sessions" SET value = {expiry}')
    assert (storage.get("ann", "k", NOW), storage.keys("ann", NOW), storage.owners("a", NOW)) == (None, [], [])
    assert (storage.purge(NOW.now, 0, 10), len(storage.values)) == (1, 0)


@pytest.mark.parametrize("expiry", ["'tomorrow'", "x'ff'"])
def test_an_unreadable_expiry_of_a_key_means_expired(storage, path, expiry) -> None:
    storage.set("ann", "k", small(b"v"), NOW, key_expires=1500)
    run(ASK_SQLITE3, path, f'UPDATE "values" SET expires = {expiry}')
    assert storage.keys("ann", NOW) == []
    assert storage.get("ann", "k", NOW) is None


@pytest.mark.parametrize(
    ("query", "args"), [(schema.PAST_OWNERS, (1, 2, 3)), (schema.PAST_KEYS, (1, 2)), (schema.GET, ("a/k", "a"))]
)
def test_purging_and_reading_go_by_an_index(storage, path, query, args) -> None:
    plan = [row[3] for row in execute(path, f"EXPLAIN QUERY PLAN {query}", args)]
    assert any("USING" in step for step in plan)
    assert not [step for step in plan if step.startswith("SCAN")]


def test_where_no_response_is_sent_writes_keep_the_wal_short(storage) -> None:
    for n in range(1000):
        storage.set("ann", "k", small(bytes([n % 256]) * 100_000), NOW)
    assert Path(f"{storage.filename}-wal").stat().st_size < 50_000_000


def test_purging_gives_the_space_back(path, clock) -> None:
    with DashDatabase(path, ttl=10, clock=clock) as db:
        db.store_user_value("ann", "k", os.urandom(5_000_000))
        clock.step(10)
        assert db.purge() == 1
    assert path.stat().st_size < 1_000_000


def test_purging_to_the_end_removes_every_expired_key(path, clock) -> None:
    with DashDatabase(path, clock=clock) as db:
        db.store_user_value("ann", "stays", 1)
        for n in range(450):
            db.store_user_value("ann", n, n, ttl=1)
        clock.step(1)
        db.purge()
        assert execute(path, 'SELECT key FROM "values"') == [("u.ann/stays",)]


# Other processes


def test_a_lock_held_elsewhere_is_an_error_that_names_the_setting_and_passes(path) -> None:
    storage = SqliteStorage(path, timeout=0.05)
    command = [sys.executable, "-c", HOLD_THE_WRITE_LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageBusy, match=r"0\.05 seconds.*USER_STORE_TIMEOUT \(timeout=\)"):
            storage.set("ann", "k", small(b"v"), NOW)
        assert storage.get("ann", "k", NOW) is None
        holder.communicate(timeout=60)
    assert write(storage, "k") == ["k"]
    storage.close()


def purge_in_turns(storage: SqliteStorage, measure: Callable[[], int]) -> list[int]:
    """By how much each turn of a purge that waits for nobody makes something smaller."""
    sizes = [measure()]
    while storage.purge(LATER.now, 0, limit=10) == 10:
        sizes.append(measure())
    return [before - after for before, after in itertools.pairwise([*sizes, measure()])]


@pytest.mark.parametrize(("keys", "nbytes"), [(2000, 10), (100, 100_000)])
def test_a_step_of_a_purge_is_short_however_much_one_session_has(storage, path, keys, nbytes) -> None:
    for n in range(keys):
        storage.set("ann", str(n), small(bytes(nbytes)), NOW)
    query = f'SELECT COALESCE(SUM(1 + length(value) / {schema.PAGE_BYTES}), 0) FROM "values"'
    steps = purge_in_turns(storage, lambda: execute(path, query)[0][0])
    assert len(steps) > 10
    assert max(steps) <= PAGES_TOGETHER + 1 + nbytes / schema.PAGE_BYTES
    assert execute(path, 'SELECT COUNT(*) FROM "sessions"') == [(0,)]


def test_what_was_deleted_is_given_back_after_responses_too(storage, path) -> None:
    for n in range(300):
        storage.set("ann", str(n), small(bytes(100_000)), NOW)
    execute(path, "PRAGMA wal_checkpoint")
    full = path.stat().st_size
    storage.clear("ann", LATER)
    purge_in_turns(storage, lambda: 0)
    assert path.stat().st_size < full / 10


def test_of_those_who_find_at_once_that_a_touch_is_due_one_makes_it(path) -> None:
    storage = SqliteStorage(path)
    storage.set("ann", "k", small(b"v"), NOW)
    touch = f"{schema.TOUCH} RETURNING 1", (LATER.expires, "ann", NOW.now, LATER.expires, 100)
    assert [execute(path, *touch) for _ in range(3)] == [[(1,)], [], []]
    storage.close()


def test_who_comes_again_with_an_ended_session_waits_for_nobody(path) -> None:
    storage, neighbour = SqliteStorage(path, timeout=0.05), SqliteStorage(path)
    ended_at = storage.end("ann", NOW)
    with neighbour.transaction("bob"):
        assert storage.end("ann", LATER) == ended_at
    storage.close()
    neighbour.close()


def test_a_purge_leaves_the_turn_to_write_to_others_after_each_step(path) -> None:
    storage, neighbour = SqliteStorage(path), SqliteStorage(path)
    beside = apsw.Connection(str(path))
    for n in range(2000):
        storage.set(f"user {n}", "k", small(b"v"), NOW)

    def left() -> int:
        return beside.execute('SELECT COUNT(*) FROM "sessions" WHERE value = ?', (NOW.expires,)).get

    passed = []
    with ThreadPoolExecutor(1) as threads:
        purge = threads.submit(storage.purge, LATER.now, 0, 2000, wait=True)
        while not purge.done():
            before = left()
            neighbour.set("ann", "k", small(b"v"), LATER)
            passed.append((before - left()) // PURGED_TOGETHER)
        assert purge.result() == 2000
    assert statistics.median(passed) <= 1  # This thread itself is kept from running now and then.
    storage.close()
    neighbour.close()


def test_many_can_open_a_new_file_at_once(path) -> None:
    gate = Barrier(8)

    def open_and_write(n: int) -> None:
        gate.wait()
        storage = SqliteStorage(path)
        storage.set("ann", str(n), small(b""), NOW)
        storage.close()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_and_write, range(8), timeout=60)) == [None] * 8


# Forks


def test_parent_and_child_both_use_the_storage_after_a_fork(storage) -> None:
    write(storage, "before")
    child = Child("fork", write, storage, "child")
    assert "before" in write(storage, "parent")
    assert {"before", "child"} <= set(child.outcome())
    assert sorted(storage.keys("ann", NOW)) == ["before", "child", "parent"]


def outcome_of(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except StorageError as error:
        return error


def test_a_fork_inside_a_transaction_is_told_so_and_leaves_the_parent_its_transaction(storage) -> None:
    def act_inside_and_after() -> list[Any]:
        inside = [outcome_of(write, storage, "child"), outcome_of(storage.get, "ann", "k", NOW)]
        block.__exit__(None, None, None)
        return [*inside, outcome_of(write, storage, "child")]

    block = storage.transaction("ann")
    with block:
        storage.set("ann", "k", small(b"1"), NOW)
        inside = Child("fork", act_inside_and_after).outcome()
        storage.set("ann", "l", small(b"2"), NOW)
    assert items(storage, "ann", NOW) == [("k", b"1"), ("l", b"2")]
    assert write(storage, "m") == ["k", "l", "m"]
    assert [isinstance(error, StorageError) and "forked" in str(error) for error in inside] == [True] * 3


def test_values_in_memory_belong_to_one_process_and_a_fork_is_told_so() -> None:
    storage = SqliteStorage(":memory:")
    error = Child("fork", write, storage, "child").outcome()
    assert isinstance(error, StorageClosed)
    assert "in the memory of the process" in str(error)
    assert write(storage, "parent") == ["parent"]


# Temporary files


def test_a_temporary_file_goes_when_it_is_closed() -> None:
    storage = SqliteStorage(None)
    folder = Path(storage.filename).parent
    assert mode(folder) == 0o700
    assert (write(storage, "k"), folder.exists()) == (["k"], True)
    storage.close()
    assert not folder.exists()


def test_a_temporary_file_goes_when_its_process_ends_and_not_with_a_fork() -> None:
    filename, is_there_after_the_fork = run(FORK_WITH_A_TEMPORARY_FILE).split()
    assert is_there_after_the_fork == "True"
    assert not Path(filename).parent.exists()


def test_a_purge_empties_all_who_ended_on_a_full_disk_however_few_it_takes_at_a_time(storage, path) -> None:
    for owner in ("ann", "bob", "cai"):
        storage.set(owner, "k", small(b"v"), NOW)
    execute(path, 'UPDATE "sessions" SET value = ?', (-NOW.now,))  # All that fits on the disk then.
    assert storage.purge(NOW.now, 0, limit=1, wait=True) == 0
    assert execute(path, 'SELECT COUNT(*) FROM "values"') == [(0,)]


def test_a_purge_of_a_session_without_a_name_ends(storage) -> None:
    run(ASK_SQLITE3, storage.filename, 'INSERT INTO "sessions" (key, value) VALUES (NULL, 5.0)')
    assert storage.purge(NOW.now, 0, limit=10, wait=True) == 0


def test_a_purge_of_a_file_that_gives_no_space_back_ends(path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE filler (bytes BLOB)")  # Too late now for auto_vacuum, which its own files have.
    connection.close()
    storage = SqliteStorage(path)
    storage.set("ann", "k", small(b"v" * 100_000), NOW)
    storage.clear("ann", NOW)
    assert storage.purge(NOW.now, 0, limit=10, wait=True) == 0
    storage.close()
