"""Deleting all of an owner's many values is one small write: the rows count as deleted until maintenance removes them.

Promise: docs/reliability.md, "Visitors do not make each other wait".
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from backends import items, large, owner, small
from sqlite_file import WRITE_WITH_SQLITEDICT, execute, purge, run

from flask_dash_store.errors import SessionEnded
from flask_dash_store.expiry import Access
from flask_dash_store.storage.base import Limits
from flask_dash_store.storage.sqlite import SqliteStorage, writer
from flask_dash_store.storage.sqlite.maintenance import PAGES_PER_CALL

NOW, LATER = Access(1000, 2000, 0), Access(2000, 3000, 0)
ANN, BOB = owner("u.ann"), owner("u.bob")
MANY = 1000

Call = Callable[[SqliteStorage], object]
GONE: dict[str, Call] = {
    "clear": lambda storage: storage.clear(ANN, NOW),
    "end": lambda storage: storage.end(ANN, NOW),
    "write after they have expired": lambda storage: storage.set(ANN, "new", small(b"v"), LATER),
    "renew after they have expired": lambda storage: storage.renew(ANN, b"id" * 16, LATER),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.sqlite"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteStorage]:
    storage = SqliteStorage(path)
    yield storage
    storage.close()


def fill(storage: SqliteStorage, count: int = MANY, nbytes: int = 10) -> None:
    with storage.transaction(ANN):
        for n in range(count):
            storage.set(ANN, str(n), small(bytes(nbytes)), NOW)


def rows(path: Path) -> int:
    return int(execute(path, 'SELECT COUNT(*) FROM "values"')[0][0])


@pytest.mark.parametrize("call", GONE.values(), ids=GONE)
@pytest.mark.parametrize(("count", "nbytes"), [(MANY, 10), (20, 100_000)])
def test_deleting_all_values_changes_as_few_rows_of_many_as_of_none(
    connections: list[apsw.Connection], storage: SqliteStorage, call: Call, count: int, nbytes: int
) -> None:
    fill(storage, count, nbytes)
    before = connections[-1].total_changes()
    call(storage)
    assert connections[-1].total_changes() - before <= 4
    assert storage.needs_maintenance


def test_values_that_count_as_deleted_are_gone_for_every_call(storage: SqliteStorage, path: Path) -> None:
    fill(storage)
    storage.set(ANN, "large", large(b"w" * 200_000), NOW)
    storage.set(BOB, "k", small(b"v"), NOW)
    storage.clear(ANN, NOW)
    assert rows(path) == MANY + 2
    assert [storage.get(ANN, key, NOW) for key in ("1", "large")] == [None, None]
    assert not storage.has(ANN, "1", NOW)
    assert (storage.keys(ANN, NOW), storage.keys(ANN, NOW, 1, newest_first=True), items(storage, ANN, NOW)) == ([],) * 3
    assert (storage.delete(ANN, "1", NOW), storage.expire(ANN, "1", 1500, NOW)) == (False, False)
    assert storage.stat(ANN, NOW)[:3] == (None, 0, 0)
    assert storage.owners("u.", NOW) == ["u.bob"]
    dump = storage.dump("u.ann")
    assert dump is not None
    assert dump.values == []
    assert items(storage, BOB, NOW) == [("k", b"v")]
    assert list(storage.problems()) == []


def test_a_key_that_is_set_again_is_new_and_comes_last(storage: SqliteStorage) -> None:
    fill(storage)
    storage.clear(ANN, NOW)
    for key in ("new", "999", "0"):
        storage.set(ANN, key, small(key.encode()), NOW)
    expected = [("new", b"new"), ("999", b"999"), ("0", b"0")]
    assert items(storage, ANN, NOW) == expected
    assert list(storage.problems()) == []
    purge(storage, NOW.now)
    assert items(storage, ANN, NOW) == expected
    assert storage.stat(ANN, NOW)[1:3] == (14, 3)


@pytest.mark.parametrize("ours", [True, False], ids=["with this package", "with stock sqlitedict"])
def test_a_value_in_the_row_of_the_last_one_that_counted_as_deleted_stays(
    storage: SqliteStorage, path: Path, ours: bool
) -> None:
    """SQLite gives the largest rowid again, once its row has gone."""
    fill(storage)
    last = f"{MANY - 1}"
    storage.clear(ANN, NOW)
    if ours:
        storage.set(ANN, last, small(b"again"), NOW)
    else:
        changes = [(f"u.ann/{MANY - 2}", "x"), (f"u.ann/{MANY - 2}", None), (f"u.ann/{last}", "again")]
        run(WRITE_WITH_SQLITEDICT, path, json.dumps(changes))
    purge(storage, NOW.now)
    assert storage.keys(ANN, NOW) == [last]
    assert rows(path) == 1
    assert list(storage.problems()) == []


def test_a_block_that_is_rolled_back_brings_all_values_back(storage: SqliteStorage) -> None:
    fill(storage)
    before = storage.stat(ANN, NOW)
    with pytest.raises(ZeroDivisionError), storage.transaction(ANN):
        storage.clear(ANN, NOW)
        storage.set(ANN, "999", small(b"new"), NOW)
        assert storage.keys(ANN, NOW) == ["999"]
        1 / 0  # noqa: B018
    assert storage.stat(ANN, NOW) == before
    assert storage.keys(ANN, NOW) == [str(n) for n in range(MANY)]
    assert not storage.needs_maintenance


def test_what_counts_as_deleted_counts_for_no_limit(path: Path) -> None:
    storage = SqliteStorage(path, limits=Limits(max_bytes=MANY * 20, max_keys=MANY))
    fill(storage)
    storage.clear(ANN, NOW)
    fill(storage)
    assert storage.stat(ANN, NOW).keys == MANY
    assert list(storage.problems()) == []
    storage.close()


@pytest.mark.parametrize("call", [GONE["clear"], GONE["end"]], ids=["clear", "end"])
def test_maintenance_removes_the_rows_in_short_steps(storage: SqliteStorage, path: Path, call: Call) -> None:
    fill(storage)
    call(storage)
    left = [rows(path)]
    while storage.maintain(NOW.now, 0).has_more:
        left.append(rows(path))
    assert left[0] == MANY
    assert left[-1] == 0
    assert max(before - after for before, after in itertools.pairwise(left)) <= PAGES_PER_CALL
    assert execute(path, 'SELECT COUNT(*) FROM "sessions" WHERE deleted_up_to IS NOT NULL') == [(0,)]
    assert not storage.needs_maintenance


def test_keys_that_have_expired_make_room_a_few_at_a_time(connections: list[apsw.Connection], path: Path) -> None:
    storage = SqliteStorage(path, limits=Limits(max_keys=MANY))
    with storage.transaction(ANN):
        for n in range(MANY):
            storage.set(ANN, str(n), small(b"v"), NOW, key_expires=NOW.now + 1)
    later = Access(NOW.now + 1, NOW.expires, 0)
    before = connections[-1].total_changes()
    storage.set(ANN, "new", small(b"v"), later)
    assert connections[-1].total_changes() - before <= 3 * PAGES_PER_CALL
    assert storage.keys(ANN, later) == ["new"]
    for n in range(MANY - 1):
        storage.set(ANN, f"new {n}", small(b"v"), later)
    assert storage.stat(ANN, later).keys == MANY
    storage.close()


def test_nothing_of_what_counts_as_deleted_is_left_after_a_purge_nor_in_a_backup(path: Path, tmp_path: Path) -> None:
    storage = SqliteStorage(path)
    with storage.transaction(ANN):
        for n in range(MANY):
            storage.set(ANN, str(n), small(b"a secret %d" % n), NOW)
    storage.set(ANN, "large", large(b"w" * 200_000), NOW)
    storage.end(ANN, NOW)
    assert storage.back_up(tmp_path / "copy.sqlite") == []
    purge(storage, NOW.now)
    storage.close()
    assert b"a secret" not in path.read_bytes()
    assert b"a secret" not in (tmp_path / "copy.sqlite").read_bytes()
    assert [each for each in tmp_path.rglob("*.buffers/*") if each.is_file()] == []


def test_a_backup_from_before_the_purge_brings_back_what_was_kept_alone(path: Path, tmp_path: Path) -> None:
    storage = SqliteStorage(path)
    fill(storage)
    storage.clear(ANN, NOW)
    storage.set(ANN, "kept", large(b"w" * 200_000), NOW)
    storage.back_up(tmp_path / "copy.sqlite")
    storage.clear(ANN, NOW)
    storage.restore(tmp_path / "copy.sqlite")
    assert [key for key, _ in storage.items(ANN, NOW)] == ["kept"]
    assert list(storage.problems()) == []
    assert rows(path) == 1
    storage.close()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_done_in_whichever_order_it_agrees_with_a_dict(
    path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(writer, "FEW_ROWS", 1)  # So that a few rows are many.
    chance = random.Random(seed)
    storage, models = SqliteStorage(path), {ANN: {}, BOB: {}}

    def change() -> None:
        who, key = chance.choice([ANN, BOB]), chance.choice("abcdef")
        model, value = models[who], b"%d" % chance.randrange(10**9)
        kind = chance.randrange(10)
        if kind < 5:
            storage.set(who, key, small(value), NOW)
            model[key] = value
        elif kind < 7:
            assert storage.delete(who, key, NOW) == (model.pop(key, None) is not None)
        elif kind < 9:
            storage.clear(who, NOW)
            model.clear()
        else:
            assert storage.expire(who, key, NOW.now, NOW) == (model.pop(key, None) is not None)

    for _ in range(150):
        change()
        if chance.random() < 0.2:
            storage.maintain(NOW.now, 0)
        assert {who: dict(items(storage, who, NOW)) for who in models} == models
        assert [list(dict(items(storage, who, NOW))) for who in models] == [list(each) for each in models.values()]
        assert list(storage.problems()) == []
    purge(storage, NOW.now)
    assert rows(path) == sum(map(len, models.values()))
    storage.close()


def test_an_ended_session_stays_ended_while_its_rows_are_there(storage: SqliteStorage, path: Path) -> None:
    fill(storage)
    storage.end(ANN, NOW)
    assert rows(path) == MANY
    with pytest.raises(SessionEnded):
        storage.get(ANN, "1", NOW)
    with pytest.raises(SessionEnded):
        storage.set(ANN, "1", small(b"v"), NOW)
