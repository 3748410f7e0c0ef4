"""Workers that start at once, where nothing was stored before, all find the storage ready.

While the journal mode changes to WAL, SQLite reports a locked database without calling the busy handler, so no timeout
helps workers that start together.
"""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

from backends import Child

from flask_dash_store import DashDatabase

WORKERS = 2  # as many as there are at least processors, or they do not really meet
STARTS = 60


def start_and_write(folder: Path, worker: int, together: Barrier) -> None:
    try:
        for start in range(STARTS):
            together.wait(timeout=30)
            with DashDatabase(folder / f"instance-{start}" / "store.sqlite") as database:
                database.store_user_value("user", worker, start)
    except BaseException:
        together.abort()  # or the other one would wait
        raise


def test_processes_that_open_a_new_database_at_once_all_write_to_it(tmp_path: Path) -> None:
    together = get_context("spawn").Barrier(WORKERS)
    workers = [Child("spawn", start_and_write, tmp_path, worker, together) for worker in range(WORKERS)]
    assert [worker.outcome() for worker in workers] == [None] * WORKERS
    for start in range(STARTS):
        with DashDatabase(tmp_path / f"instance-{start}" / "store.sqlite") as database:
            assert sorted(database.list_stored_user_keys("user")) == ["0", "1"]
