"""``kill -9`` of a worker, at any time, loses nothing that was acknowledged and leaves nothing behind.

Promise: docs/reliability.md, "Acknowledged means stored". It is what the kernel's out-of-memory killer and a
container's end do to a worker.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from threading import Event, Semaphore

import pytest
import soak
import sqlite_file
from flask import Flask
from http_visitor import Visitor
from servers import Port, gunicorn, running

from flask_dash_store import UserStoreMiddleware
from flask_dash_store.storage.sqlite.maintenance import ORPHAN_AGE

APPS = Path(__file__).parents[1] / "support" / "apps"
SECRET = "only for these tests"
KILLS = soak.repeats(ci=25, soak=500)
WRITERS = 8
SMALL, LARGE = 2_000, 400_000
TIMEOUT = 60


class Writer:
    """Sends one write after the other, and knows what may be stored under each of its keys."""

    def __init__(self, port: int, name: int) -> None:
        self._visitor = Visitor(port)
        self._chance = random.Random(name)
        self._number = 0
        # None stands for no value.
        self.possible: dict[str, set[int | None]] = {f"{name}-small": {None}, f"{name}-large": {None}}

    def write(self) -> int | None:
        """Send one write. Returns the worker that has acknowledged it; None when that was killed."""
        self._number += 1
        key, nbytes = self._chance.choice(list(zip(self.possible, (SMALL, LARGE), strict=True)))
        what = self._chance.random()
        if what < 0.05:
            return self._ask("POST", "/purge")
        if what < 0.15:
            return self._change(key, None, "DELETE", f"/{key}")
        return self._change(key, self._number, "PUT", f"/{key}/{self._number}/{nbytes}")

    def _change(self, key: str, becomes: int | None, method: str, path: str) -> int | None:
        self.possible[key].add(becomes)
        worker = self._ask(method, path)
        if worker is not None:
            self.possible[key] = {becomes}
        return worker

    def _ask(self, method: str, path: str) -> int | None:
        try:
            worker: int = self._visitor.do(method, path)["worker"]
        except (OSError, HTTPException):
            return None
        return worker


class Writers:
    """All of them at once, while a block lasts."""

    def __init__(self, port: int) -> None:
        self.each = [Writer(port, name) for name in range(WRITERS)]
        self.workers: set[int] = set()

    def _write(self, writer: Writer) -> None:
        while not self._stop.is_set():
            worker = writer.write()
            if worker is not None:
                self.workers.add(worker)
                self._acknowledged.release()

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._stop, self._acknowledged, self.workers = Event(), Semaphore(0), set()
        with ThreadPoolExecutor(WRITERS) as threads:
            ends = [threads.submit(self._write, writer) for writer in self.each]
            try:
                yield
            finally:
                self._stop.set()
        for end in ends:
            end.result()

    def wait_for(self, writes: int) -> None:
        for _ in range(writes):
            assert self._acknowledged.acquire(timeout=TIMEOUT), "the writers are stuck"


class Inspector:
    """Looks at the storage from a process beside the workers, in which orphans are old enough to go."""

    def __init__(self, database: Path) -> None:
        self._app = Flask("inspector")
        self._app.secret_key = SECRET
        self._database = database
        self._buffers = database.with_name(f"{database.name}.buffers")
        self._middleware = UserStoreMiddleware(
            self._app, url=f"sqlite:///{database}", clock=lambda: time.time() + 2 * ORPHAN_AGE
        )

    def check(self, writers: Writers) -> None:
        stored = {key: number_of(value) for key, value in self._middleware.for_user("ann").items()}
        for writer in writers.each:
            for key, possible in writer.possible.items():
                assert stored.get(key) in possible
                writer.possible[key] = {stored.pop(key, None)}
        assert stored == {}
        checked = self._app.test_cli_runner().invoke(args=["user-store", "check"])
        assert checked.exit_code == 0, checked.output

    def check_that_purging_leaves_no_orphans(self) -> None:
        self._middleware.purge()
        assert {file.name for file in self._buffers.iterdir()} == sqlite_file.named_files(self._database)


def number_of(value: bytes) -> int:
    stamp = value[:8]
    assert value == stamp * (len(value) // 8), "a torn value"
    return int(stamp)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_killing_workers_loses_no_acknowledged_write_and_tears_no_value(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    port, database, chance = Port(), tmp_path / "store.sqlite", random.Random(KILLS)
    settings = {
        "FLASK_SECRET_KEY": SECRET,
        "FLASK_USER_STORE_URL": f"sqlite:///{database}",
        "FLASK_USER_STORE_TIMEOUT": str(TIMEOUT),
    }
    with running(gunicorn("crash_app:server", port.number, APPS, *options), port.number, tmp_path, settings) as server:
        writers, inspector = Writers(port.number), Inspector(database)
        for _ in range(KILLS):
            with writers.writing():
                writers.wait_for(chance.randint(WRITERS, 5 * WRITERS))
                os.kill(chance.choice(sorted(writers.workers)), signal.SIGKILL)
                writers.wait_for(1)
            inspector.check(writers)
            inspector.check_that_purging_leaves_no_orphans()
        server.stop(signal.SIGKILL)  # A worker that has just been started may miss a SIGTERM.
    port.close()
