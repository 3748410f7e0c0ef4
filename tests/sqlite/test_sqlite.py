"""What the SQLite storage promises beyond the contract: its file, other processes, forks."""

from __future__ import annotations

import ctypes
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
from backends import Child, items, large, owner, small
from sqlite_file import WRITE_WITH_SQLITEDICT, execute, purge, run

from flask_dash_store import DashDatabase
from flask_dash_store.errors import (
    QuotaExceeded,
    StorageBusy,
    StorageCorrupt,
    StorageError,
    TooManyKeys,
)
from flask_dash_store.expiry import Access
from flask_dash_store.storage.base import Limits
from flask_dash_store.storage.sqlite import SqliteStorage, schema
from flask_dash_store.storage.sqlite.maintenance import OWNERS_PER_CALL, PAGES_PER_CALL
from flask_dash_store.storage.sqlite.reserve import Reserve

NOW = Access(1000, 2000, 0)
LATER = Access(2000, 3000, 0)
ANN, BOB = owner("u.ann"), owner("u.bob")

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


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def write(storage: SqliteStorage, key: str) -> list[str]:
    storage.set(ANN, key, small(b""), NOW)
    return storage.keys(ANN, NOW)


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


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("auto_vacuum", 2), ("secure_delete", 1), ("synchronous", 1)]
)
def test_the_database_is_set_up_as_promised(connections, storage, pragma, value) -> None:
    write(storage, "k")
    assert connections[-1].pragma(pragma) == value


def test_synchronous_full_is_a_setting(connections, path) -> None:
    storage = SqliteStorage(path, synchronous="FULL")
    write(storage, "k")
    assert connections[-1].pragma("synchronous") == 2
    storage.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_and_new_directories_are_for_their_owner_alone_whatever_the_umask(tmp_path, umask) -> None:
    before = os.umask(umask)
    try:
        storage = SqliteStorage(tmp_path / "new" / "newer" / "values.sqlite")
    finally:
        os.umask(before)
    storage.set(ANN, "k", small(b""), NOW)
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
def test_what_is_not_a_file_of_this_user_is_refused(tmp_path, make) -> None:
    path = make(tmp_path)
    before = {each: each.lstat() for each in [path, *tmp_path.iterdir()]}
    with pytest.raises(StorageError, match=str(path)):
        SqliteStorage(path)
    assert {each: each.lstat() for each in [path, *tmp_path.iterdir()]} == before


@pytest.mark.parametrize("content", [b"No database. " * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_not_a_database_is_reported_and_left_as_it_is(path, content) -> None:
    path.write_bytes(content)
    with pytest.raises(StorageCorrupt, match=str(path)):
        SqliteStorage(path)
    assert path.read_bytes() == content


def test_a_damaged_database_is_reported_and_left_as_it_is(path) -> None:
    storage = SqliteStorage(path)
    storage.set(ANN, "k", small(b"v" * 50_000), NOW)
    storage.close()
    damaged = path.read_bytes()[:4096] + b"\xff" * 4096 * 20
    path.write_bytes(damaged)
    with pytest.raises(StorageCorrupt, match=str(path)):
        SqliteStorage(path).get("ann", "k", NOW)
    assert path.read_bytes() == damaged


def test_deleted_values_are_overwritten(storage, path) -> None:
    storage.set(ANN, "k", small(b"a secret"), NOW)
    storage.delete(ANN, "k", NOW)
    storage.close()
    assert b"a secret" not in path.read_bytes()


# Expiry and purging


@pytest.mark.parametrize("expiry", ["NULL", "'tomorrow'", "x'ff'"])
def test_a_missing_or_unreadable_expiry_means_expired(storage, path, expiry) -> None:
    storage.set(ANN, "k", small(b"v"), NOW)
    run(ASK_SQLITE3, path, f'UPDATE "sessions" SET value = {expiry}')
    assert (storage.get(ANN, "k", NOW), storage.keys(ANN, NOW), storage.owners("u.", NOW)) == (None, [], [])
    assert purge(storage, NOW.now) == 1
    assert execute(path, 'SELECT COUNT(*) FROM "values"') == [(0,)]


@pytest.mark.parametrize("expiry", ["'tomorrow'", "x'ff'"])
def test_an_unreadable_expiry_of_a_key_means_expired(storage, path, expiry) -> None:
    storage.set(ANN, "k", small(b"v"), NOW, key_expires=1500)
    run(ASK_SQLITE3, path, f'UPDATE "values" SET expires = {expiry}')
    assert storage.keys(ANN, NOW) == []
    assert storage.get(ANN, "k", NOW) is None


@pytest.mark.parametrize(
    ("query", "args"),
    [
        (schema.PAST_OWNERS, (1, 2, 3)),
        (schema.PAST_KEYS, (1, 2)),
        (schema.GET, ("u.a", None, "u.a/k")),
        (schema.STAT, {"owner": "u.a", "now": 0}),
        (schema.CLEAR.replace(" RETURNING file", ""), {"owner": "u.a"}),
        (schema.SESSIONS, {"user": b"user", "now": 0}),
        (schema.COUNT_AS_DELETED, {"owner": "u.a"}),
        (schema.KEYS, {"owner": "u.a", "session": None, "now": 0, "limit": 1}),
        (schema.LAST_KEYS, {"owner": "u.a", "session": None, "now": 0, "limit": 1}),
        (schema.SIZES_DELETED, {"owner": "u.a", "limit": 1}),
        (schema.SIZES_EXPIRED, {"owner": "u.a", "limit": 1, "now": 0}),
    ],
)
def test_what_a_request_or_maintenance_looks_for_is_found_by_an_index(storage, path, query, args) -> None:
    plan = [row[3] for row in execute(path, f"EXPLAIN QUERY PLAN {query}", args)]
    assert any("USING" in step for step in plan)
    assert not [step for step in plan if step.startswith("SCAN") and "subquery" not in step]


@pytest.mark.parametrize(
    ("query", "args"),
    [
        (schema.OWNERS, {"prefix": "u.", "end": "u/", "now": 0}),
        (schema.SESSIONS, {"user": b"user", "now": 0}),
        (schema.WRONG_COUNTS, ()),
    ],
    ids=["owners", "sessions", "check"],
)
def test_what_is_looked_for_of_each_owner_is_found_among_its_own_values(storage, path, query, args) -> None:
    """By the rowid, it was looked for among those of all owners: `check` took 150 s for 4000 owners of 10 values."""
    steps = [row[3] for row in execute(path, f"EXPLAIN QUERY PLAN {query}", args)]
    steps = [step for step in steps if step.startswith(("SCAN values", "SEARCH values"))]
    assert steps
    assert all("INDEX values_by_owner" in step and "(<expr>=?" in step for step in steps)


def test_maintenance_looks_at_no_session_of_which_nothing_is_to_be_removed(path, storage) -> None:
    [(*_, step)] = execute(path, f"EXPLAIN QUERY PLAN {schema.WITH_DELETED}")
    assert step == "SCAN sessions USING INDEX sessions_with_deleted"


def test_where_no_response_is_sent_writes_keep_the_wal_short(storage) -> None:
    for n in range(1000):
        storage.set(ANN, "k", small(bytes([n % 256]) * 100_000), NOW)
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
            storage.set(ANN, "k", small(b"v"), NOW)
        assert storage.get(ANN, "k", NOW) is None
        holder.communicate(timeout=60)
    assert write(storage, "k") == ["k"]
    storage.close()


def maintain_in_steps(storage: SqliteStorage, measure: Callable[[], int]) -> list[int]:
    """By how much each step of maintenance that waits for no other writer makes something smaller."""
    sizes = [measure()]
    while storage.maintain(LATER.now, 0).has_more:
        sizes.append(measure())
    return [before - after for before, after in itertools.pairwise([*sizes, measure()])]


@pytest.mark.parametrize(("keys", "nbytes"), [(2000, 10), (100, 100_000)])
def test_a_step_of_maintenance_is_short_however_much_one_owner_has(storage, path, keys, nbytes) -> None:
    for n in range(keys):
        storage.set(ANN, str(n), small(bytes(nbytes)), NOW)
    query = f'SELECT COALESCE(SUM(1 + length(value) / {schema.PAGE_BYTES}), 0) FROM "values"'
    steps = maintain_in_steps(storage, lambda: execute(path, query)[0][0])
    assert len(steps) > 10
    assert max(steps) <= PAGES_PER_CALL + 1 + nbytes / schema.PAGE_BYTES
    assert execute(path, 'SELECT COUNT(*) FROM "sessions"') == [(0,)]


def test_what_was_deleted_is_given_back_after_responses_too(storage, path) -> None:
    for n in range(300):
        storage.set(ANN, str(n), small(bytes(100_000)), NOW)
    execute(path, "PRAGMA wal_checkpoint")
    full = path.stat().st_size
    storage.clear(ANN, LATER)
    maintain_in_steps(storage, lambda: 0)
    assert path.stat().st_size < full / 10


def test_of_requests_that_find_at_once_that_a_touch_is_due_one_makes_it(path) -> None:
    storage = SqliteStorage(path)
    storage.set(ANN, "k", small(b"v"), NOW)
    touch = f"{schema.TOUCH} RETURNING 1", (LATER.expires, ANN.name, None, NOW.now, 100)
    assert [execute(path, *touch) for _ in range(3)] == [[(1,)], [], []]
    storage.close()


def test_a_dead_session_id_that_comes_again_waits_for_no_writer(path) -> None:
    storage, neighbour = SqliteStorage(path, timeout=0.05), SqliteStorage(path)
    session = owner("s.1")
    ended_at = storage.end(session, NOW)
    with neighbour.transaction(BOB):
        assert storage.end(session, LATER) == ended_at
    storage.close()
    neighbour.close()


def test_maintenance_lets_other_writers_in_after_each_step(path) -> None:
    storage, neighbour = SqliteStorage(path), SqliteStorage(path)
    beside = apsw.Connection(str(path))
    for n in range(2000):
        storage.set(owner(f"u.{n}"), "k", small(b"v"), NOW)

    def left() -> int:
        return beside.execute('SELECT COUNT(*) FROM "sessions" WHERE value = ?', (NOW.expires,)).get

    passed = []
    with ThreadPoolExecutor(1) as threads:
        purging = threads.submit(purge, storage, LATER.now)
        while not purging.done():
            before = left()
            neighbour.set(ANN, "k", small(b"v"), LATER)
            passed.append((before - left()) // OWNERS_PER_CALL)
        assert purging.result() == 2000
    assert statistics.median(passed) <= 1  # This thread itself is kept from running now and then.
    storage.close()
    neighbour.close()


def test_many_can_open_a_new_file_at_once(path) -> None:
    gate = Barrier(8)

    def open_and_write(n: int) -> None:
        gate.wait()
        storage = SqliteStorage(path)
        storage.set(ANN, str(n), small(b""), NOW)
        storage.close()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_and_write, range(8), timeout=60)) == [None] * 8


# Forks


def test_parent_and_child_both_use_the_storage_after_a_fork(storage) -> None:
    write(storage, "before")
    child = Child("fork", write, storage, "child")
    assert "before" in write(storage, "parent")
    assert {"before", "child"} <= set(child.outcome())
    assert sorted(storage.keys(ANN, NOW)) == ["before", "child", "parent"]


def outcome_of(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except StorageError as error:
        return error


def test_a_fork_inside_a_transaction_gets_an_error_and_leaves_the_parent_its_transaction(storage) -> None:
    def act_inside_and_after() -> list[Any]:
        inside = [outcome_of(write, storage, "child"), outcome_of(storage.get, ANN, "k", NOW)]
        block.__exit__(None, None, None)
        return [*inside, outcome_of(write, storage, "child")]

    block = storage.transaction(ANN)
    with block:
        storage.set(ANN, "k", small(b"1"), NOW)
        inside = Child("fork", act_inside_and_after).outcome()
        storage.set(ANN, "l", small(b"2"), NOW)
    assert items(storage, ANN, NOW) == [("k", b"1"), ("l", b"2")]
    assert write(storage, "m") == ["k", "l", "m"]
    assert [isinstance(error, StorageError) and "forked" in str(error) for error in inside] == [True] * 3


def in_a_fork_in_c(call: Callable[[], object]) -> None:
    """Make a call in a process that was forked as uWSGI forks, where os.register_at_fork does nothing."""
    process = ctypes.PyDLL(None).fork()
    if process == 0:
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_parent_and_child_both_use_a_used_storage_after_a_fork_in_c(storage, path) -> None:
    write(storage, "before")
    in_a_fork_in_c(lambda: write(storage, "child"))
    assert write(storage, "parent") == ["before", "child", "parent"]
    assert Child("spawn", keys_of, path).outcome() == ["before", "child", "parent"]
    assert list(storage.problems()) == []


def test_a_fork_in_c_inside_a_transaction_gets_an_error_and_leaves_the_parent_its_transaction(storage) -> None:
    def act_in_the_child() -> None:
        for call in (lambda: write(storage, "child"), lambda: storage.get(BOB, "k", NOW)):
            with pytest.raises(StorageError, match="forked"):
                call()

    with storage.transaction(ANN):
        storage.set(ANN, "k", small(b"1"), NOW)
        in_a_fork_in_c(act_in_the_child)
        storage.set(ANN, "l", small(b"2"), NOW)
    assert items(storage, ANN, NOW) == [("k", b"1"), ("l", b"2")]


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


# Maintenance that comes to an end


def test_maintenance_deletes_the_values_of_all_sessions_that_ended_on_a_full_disk(storage, path) -> None:
    sessions = [owner(f"s.{n}") for n in range(3)]
    for session in sessions:
        storage.set(session, "k", small(b"v"), NOW)
    for session in sessions:  # All that fits on the disk then.
        execute(path, schema.COUNT_AS_DELETED, {"owner": session.name})
        execute(path, schema.END, (session.name, NOW.now))
    assert purge(storage, NOW.now) == 0
    assert execute(path, 'SELECT COUNT(*) FROM "values"') == [(0,)]
    assert list(storage.problems()) == []


def test_maintenance_of_a_session_without_a_name_ends(storage) -> None:
    run(ASK_SQLITE3, storage.filename, 'INSERT INTO "sessions" (key, value) VALUES (NULL, 5.0)')
    assert purge(storage, NOW.now) == 0


def test_maintenance_of_a_file_that_gives_no_space_back_ends(path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE filler (bytes BLOB)")  # Too late now for auto_vacuum, which its own files have.
    connection.close()
    storage = SqliteStorage(path)
    storage.set(ANN, "k", small(b"v" * 100_000), NOW)
    storage.clear(ANN, NOW)
    assert purge(storage, NOW.now) == 0
    storage.close()


# Other programs that write


def test_the_counts_stay_right_when_stock_sqlitedict_inserts_replaces_and_deletes(storage, path) -> None:
    """sqlitedict's REPLACE deletes the former row without its trigger: https://www.sqlite.org/lang_replace.html."""
    storage.set(ANN, "mine", small(b"v" * 100), NOW)
    storage.set(ANN, "large", large(b"w" * 200_000), NOW)
    storage.set(BOB, "mine", small(b"v"), NOW)
    changes = [
        ("u.ann/new", "x" * 1000),
        ("u.ann/new", "y" * 10),
        ("u.ann/mine", "z" * 5000),
        ("u.ann/large", "now small"),
        ("u.ann/passing", 1),
        ("u.ann/passing", None),
        ("u.bob/mine", None),
        ("u.unknown/k", 1),
        ("no owner", 1),
    ]
    run(WRITE_WITH_SQLITEDICT, path, json.dumps(changes))
    rows = execute(path, "SELECT key, length(value), COALESCE(file_bytes, 0) FROM \"values\" WHERE key LIKE 'u.ann/%'")
    assert {key for key, *_ in rows} == {"u.ann/new", "u.ann/mine", "u.ann/large"}
    expected = sum(len(key) - len("u.ann/") + nbytes + file_bytes for key, nbytes, file_bytes in rows)
    assert storage.stat(ANN, NOW)[:3] == (NOW.expires, expected, 3)
    assert storage.stat(BOB, NOW)[:3] == (None, 0, 0)
    assert list(storage.problems()) == []
    storage.set(ANN, "new", small(b"ours again"), NOW)
    storage.delete(ANN, "mine", NOW)
    storage.clear(ANN, NOW)
    assert storage.stat(ANN, NOW)[:3] == (None, 0, 0)
    assert list(storage.problems()) == []


def test_a_quota_counts_what_stock_sqlitedict_has_written(path) -> None:
    storage = SqliteStorage(path, limits=Limits(max_bytes=10_000, max_keys=3))
    storage.set(ANN, "k", small(b"v"), NOW)
    run(WRITE_WITH_SQLITEDICT, path, json.dumps([("u.ann/a", "x" * 9000), ("u.ann/b", 1)]))
    with pytest.raises(TooManyKeys):
        storage.set(ANN, "c", small(b"v"), NOW)
    with pytest.raises(QuotaExceeded):
        storage.set(ANN, "b", small(b"v" * 2000), NOW)
    storage.close()


# Files that are replaced or removed while they are in use


def test_a_database_file_that_was_replaced_is_an_error_that_says_to_restart(storage, path) -> None:
    write(storage, "before")
    SqliteStorage(path.with_name("other")).close()
    path.with_name("other").rename(path)
    with pytest.raises(StorageError, match=r"(?s)replaced by another file.*Restart.*user-store restore"):
        storage.set(ANN, "lost", small(b"v"), NOW)
    with pytest.raises(StorageError, match="Restart"), storage.transaction(ANN):
        pass


def test_a_database_file_that_was_deleted_is_an_error_and_none_is_made_in_its_place(storage, path) -> None:
    write(storage, "before")
    path.unlink()
    with pytest.raises(StorageError, match="was deleted"):
        storage.set(ANN, "lost", small(b"v"), NOW)
    assert not path.exists()


OPEN_AND_CLOSE_BESIDE = """
import sqlite3, sys
from pathlib import Path
from flask_dash_store.buffers import Buffers
from flask_dash_store.expiry import Access
from flask_dash_store.owner import Owner
from flask_dash_store.storage.sqlite import SqliteStorage
path, ann, access = sys.argv[1], Owner("u.ann"), Access(1000, 2000, 0)
storage = SqliteStorage(path)
for n in range(100):
    storage.set(ann, f"before-{n}", (b"v", None), access)
beside = sqlite3.connect(path)
print(beside.execute('SELECT COUNT(*) FROM "values"').fetchone()[0])
beside.close()
for n in range(100):
    storage.set(ann, f"after-{n}", (b"v", None), access)
print(len(storage.keys(ann, access)), len(list(storage.problems())))
"""


def test_no_write_is_lost_after_another_sqlite_library_of_the_same_process_has_closed_the_file(path) -> None:
    """It drops our locks, so that the next process to come removes the WAL: howtocorrupt.html, section 2.2."""
    assert run(OPEN_AND_CLOSE_BESIDE, path).split() == ["100", "200", "0"]
    storage = SqliteStorage(path)
    assert len(storage.keys(ANN, NOW)) == 200
    storage.close()


def test_no_write_is_lost_after_the_wal_was_removed_while_it_was_in_use(path) -> None:
    storage = SqliteStorage(path)
    write(storage, "before")
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    Path(f"{path}-wal").unlink()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: write(storage, f"after-{n}"), range(40)))
    other = Child("spawn", keys_of, path).outcome()
    assert sorted(other) == sorted(["before", *(f"after-{n}" for n in range(40))])
    assert list(storage.problems()) == []
    storage.close()


def keys_of(path: Path) -> list[str]:
    storage = SqliteStorage(path)
    try:
        return storage.keys(ANN, NOW)
    finally:
        storage.close()


# The reserve


@pytest.mark.parametrize("call", [
    lambda storage: storage.maintain(NOW.now, 0, wait=True),
    lambda storage: storage.maintain(NOW.now, 0),
    lambda storage: SqliteStorage(storage.filename, timeout=0.2).close(),
])  # fmt: skip
def test_a_reserve_that_another_process_holds_makes_no_call_wait_for_it(path, call) -> None:
    storage = SqliteStorage(path, timeout=0.2)
    with Reserve(f"{path}-reserve", 0).released(), ThreadPoolExecutor(1) as thread:
        thread.submit(call, storage).result(30)
    storage.close()


def test_a_delete_on_a_full_disk_waits_for_the_reserve_no_longer_than_the_timeout(connections, path) -> None:
    storage = SqliteStorage(path, timeout=0.2)
    storage.set(ANN, "k", small(b"v"), NOW)

    def be_full(*_: object) -> bool:
        raise apsw.FullError("database or disk is full")

    with Reserve(f"{path}-reserve", 0).released():
        connections[-1].exec_trace = be_full
        with ThreadPoolExecutor(1) as thread, pytest.raises(StorageBusy, match="reserve"):
            thread.submit(storage.delete, ANN, "k", NOW).result(30)
        connections[-1].exec_trace = None
    assert storage.delete(ANN, "k", NOW)
    storage.close()
