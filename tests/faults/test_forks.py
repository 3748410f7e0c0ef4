"""However a transaction() ends, and its thread or process with it, locks are free and nothing is half-written.

Forks beside and inside transactions are in test_sqlite.py and test_concurrency.py, ``gunicorn --preload`` is in
test_gunicorn.py and test_kill.py.

Promises: docs/reliability.md, "All or nothing". What a fork must not do with an open database:
https://www.sqlite.org/howtocorrupt.html, section 2.6.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPException
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import apsw
import pytest
from backends import Child
from flask import Flask
from http_visitor import Visitor
from servers import Port, Server, gunicorn, running

from flask_dash_store import StorageError, UserStore, UserStoreMiddleware
from flask_dash_store.storage.sqlite.maintenance import ORPHAN_AGE

APPS = Path(__file__).parents[1] / "support" / "apps"
SECRET = "only for these tests"
LARGE = bytes(1_000_000)
TIMEOUT = 60


class Stored:
    """A database with a user who has a small and a large value."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "store.sqlite"
        self.middleware = open_middleware(self.file, clock=lambda: time.time() + 2 * ORPHAN_AGE)
        self.store = self.middleware.for_user("ann")
        self.store.update(BEFORE)

    def check(self) -> None:
        """All is as before, others can write at once, and no file is left."""
        with closing(apsw.Connection(str(self.file))) as another:
            another.execute("BEGIN IMMEDIATE")
            assert another.execute('SELECT COUNT(*) FROM "values"').get == len(BEFORE)
        assert self.store == BEFORE
        self.store["small"] = "written after it"
        assert len(list(self.file.parent.glob("*.buffers/*"))) == 1


BEFORE = {"small": "before", "large": LARGE}


def open_middleware(file: Path, **options: Any) -> UserStoreMiddleware:
    app = Flask("forks")
    app.secret_key = SECRET
    return UserStoreMiddleware(app, url=f"sqlite:///{file}", timeout=TIMEOUT, **options)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def write_half(store: UserStore) -> None:
    store["small"] = "half"
    store["large"] = b"half" + LARGE


# A thread that does not come to the end of its block


def raise_exception(store: UserStore) -> None:
    with suppress(ZeroDivisionError), store.transaction():
        write_half(store)
        raise ZeroDivisionError


def end_thread(store: UserStore) -> None:
    with suppress(SystemExit), store.transaction():
        write_half(store)
        sys.exit()


def be_interrupted(store: UserStore) -> None:
    """By an exception that another thread sends, as some servers end a request that takes too long."""
    with suppress(TimeoutError), store.transaction():
        write_half(store)
        thread = ctypes.c_ulong(threading.get_ident())
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimeoutError))
        for _ in range(1000):
            store["small"] = "half"
        raise AssertionError("it was not interrupted")


def run_out_of_time(store: UserStore) -> None:
    async def never_end() -> None:
        async with asyncio.timeout(0.01):
            with store.transaction():
                write_half(store)
                await asyncio.Event().wait()

    with suppress(TimeoutError):
        asyncio.run(never_end())


def be_forgotten(store: UserStore) -> None:
    block = store.transaction()
    block.__enter__()
    write_half(store)


def be_abandoned(store: UserStore) -> None:
    def generate() -> Iterator[None]:
        with store.transaction():
            write_half(store)
            yield

    next(generate())


@pytest.mark.parametrize(
    "end", [raise_exception, end_thread, be_interrupted, run_out_of_time, be_forgotten, be_abandoned]
)
def test_a_thread_that_dies_in_a_transaction_leaves_nothing_half_written(
    stored: Stored, end: Callable[[UserStore], None]
) -> None:
    thread = threading.Thread(target=end, args=[stored.store])
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    stored.check()


def test_an_alarm_in_a_transaction_leaves_nothing_half_written(stored: Stored) -> None:
    def interrupt(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(TimeoutError), stored.store.transaction():
            write_half(stored.store)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            threading.Event().wait(TIMEOUT)
    finally:
        signal.signal(signal.SIGALRM, before)
    stored.check()


# A process that ends inside a block

IN_A_BLOCK = """
import os, signal, sys, threading
from pathlib import Path
from test_forks import open_middleware, write_half
store = open_middleware(Path(sys.argv[1])).for_user("ann")

def stay_inside():
    with store.transaction():
        write_half(store)
        is_inside.set()
        threading.Event().wait()

is_inside = threading.Event()
"""
DEATHS = {
    "of an exception": "with store.transaction(): write_half(store); 1 / 0",
    "by os._exit": "with store.transaction(): write_half(store); os._exit(1)",
    "of a signal": "with store.transaction(): write_half(store); signal.raise_signal(signal.SIGTERM)",
    "with a thread inside": "threading.Thread(target=stay_inside, daemon=True).start(); is_inside.wait(); sys.exit(1)",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_process_that_ends_in_a_transaction_leaves_nothing_half_written(stored: Stored, death: str) -> None:
    command = [sys.executable, "-c", IN_A_BLOCK + DEATHS[death], str(stored.file)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
    assert ended.returncode in (1, -signal.SIGTERM), ended.stderr
    stored.middleware.purge()
    stored.check()


def stay_inside(store: UserStore | Path, says: Connection) -> None:
    if isinstance(store, Path):
        store = open_middleware(store).for_user("ann")
    with store.transaction():
        write_half(store)
        says.send("inside")
        threading.Event().wait()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_is_killed_in_a_transaction_lets_waiting_ones_go_on(stored: Stored, method: str) -> None:
    context = get_context(method)
    hears, says = context.Pipe(duplex=False)
    theirs = stored.store if method == "fork" else stored.file
    process = context.Process(target=stay_inside, args=(theirs, says), daemon=True)
    process.start()
    assert hears.poll(TIMEOUT)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(stored.store.set, "small", "before")
        process.kill()
        waiting.result(TIMEOUT)
    process.join()
    process.close()
    stored.middleware.purge()
    stored.check()


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_a_worker_that_is_killed_in_a_transaction_lets_the_others_go_on(
    stored: Stored, tmp_path: Path, options: tuple[str, ...]
) -> None:
    port = Port()
    settings = {
        "FLASK_SECRET_KEY": SECRET,
        "FLASK_USER_STORE_URL": f"sqlite:///{stored.file}",
        "FLASK_USER_STORE_TIMEOUT": str(TIMEOUT),
    }
    with running(gunicorn("crash_app:server", port.number, APPS, *options), port.number, tmp_path, settings) as server:
        with ThreadPoolExecutor(2) as threads:
            stuck = threads.submit(Visitor(port.number).ask, "POST", "/stay-inside")
            worker = worker_inside(server)
            waiting = threads.submit(Visitor(port.number).ask, "DELETE", "/no-such-key")
            os.kill(worker, signal.SIGKILL)
            assert isinstance(stuck.exception(TIMEOUT), (OSError, HTTPException))
            # The one that waits may have come to the same worker.
            assert waiting.exception(TIMEOUT) or waiting.result().status == 200
        assert Visitor(port.number).ask("DELETE", "/no-such-key").status == 200
        server.stop(signal.SIGKILL)  # A worker that has just been started may miss a SIGTERM.
    port.close()
    stored.middleware.purge()
    stored.check()


def worker_inside(server: Server) -> int:
    deadline = time.monotonic() + TIMEOUT
    while not (found := re.search(r"inside: (\d+)", server.log)):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)
    return int(found[1])


# An app whose storage another thread opens just now


def test_a_fork_while_another_thread_opens_the_storage_gets_its_own_error_and_does_not_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as thread:
        app = Flask("forks")
        app.secret_key = SECRET
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none"
        middleware = UserStoreMiddleware(app, url=url, timeout=0.5)
        opening = thread.submit(lambda: middleware.for_user("ann"))
        accepted, _ = silent.accept()  # The thread now waits for an answer, until its deadline.
        with accepted:
            assert isinstance(Child("fork", middleware.for_user, "ann").outcome(), StorageError)
            assert isinstance(opening.exception(TIMEOUT), StorageError)
