"""Nothing is lost and nothing is seen half, whatever threads, coroutines and processes do to one store at once.

Promises: docs/reliability.md, "Acknowledged means stored" and "All or nothing".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import copy_context
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from threading import Event as ThreadEvent
from threading import Thread
from typing import Any

import pytest
from backends import SHARED, Child, owner, small
from clocks import HandClock
from faults import fork_and_exit
from flask import Flask

from flask_dash_store import StorageBusy, StorageError, UserStore, UserStoreMiddleware
from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.storage import Storage

PROCESSES, THREADS, TIMES = 4, 8, 200
NOW = ExpiryPolicy(1000.0, HandClock()).access()
ANN = owner("u.ann")

Work = Callable[[UserStore, str], object]


def open_store(path: Path, **options: Any) -> UserStore:
    app = Flask(__name__)
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url=f"sqlite:///{path}", **options).for_user("ann")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.sqlite"


@pytest.fixture
def store(path: Path) -> UserStore:
    return open_store(path)


@pytest.fixture(params=[None, "file"])
def any_store(request: pytest.FixtureRequest, path: Path) -> UserStore:
    """A store in memory, and one in a file."""
    return open_store(path if request.param else Path(":memory:"))


def count(store: UserStore, name: str) -> None:
    for _ in range(TIMES):
        store.increment("n")


def count_in_coroutine(store: UserStore, name: str) -> None:
    async def counting() -> None:
        for _ in range(TIMES // 4):
            store.increment("n")
            await asyncio.sleep(0)

    async def counting_side_by_side() -> None:
        await asyncio.gather(*(counting() for _ in range(4)))

    asyncio.run(counting_side_by_side())


def write(store: UserStore, key: str) -> None:
    store[key] = key


def write_own_keys(store: UserStore, name: str) -> None:
    for n in range(5):
        store[f"{name} {n}"] = name


def in_threads(work: Work, store: UserStore | Path, name: str, gate: Barrier) -> None:
    """Work in many threads, in this process, at the same time as others do."""
    if isinstance(store, Path):
        store = open_store(store)
    gate.wait(60)
    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(work, store, f"{name} {n}") for n in range(THREADS)]:
            future.result(100)


def in_processes(method: str, work: Work, store: UserStore, path: Path) -> None:
    gate = get_context(method).Barrier(PROCESSES)
    theirs = store if method == "fork" else path
    children = [Child(method, in_threads, work, theirs, f"process {n}", gate) for n in range(PROCESSES)]
    assert [child.outcome(timeout=110) for child in children] == [None] * PROCESSES


@pytest.mark.parametrize(("method", "work"), [("spawn", count), ("fork", count_in_coroutine)])
def test_4_processes_with_8_threads_count_to_6400(store, path, method, work) -> None:
    store["n"] = 0
    in_processes(method, work, store, path)
    assert store["n"] == PROCESSES * THREADS * TIMES == 6400


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_keys_that_are_written_in_parallel_all_survive(store, path, method) -> None:
    store["before"] = 0
    in_processes(method, write_own_keys, store, path)
    names = [f"process {process} {thread}" for process in range(PROCESSES) for thread in range(THREADS)]
    assert dict(store) == {"before": 0} | {f"{name} {n}": name for name in names for n in range(5)}


@pytest.mark.parametrize(
    "write",
    [
        lambda store, n: store.update(a=n, b=n, c=n),
        lambda store, n: store.clear() if n % 2 else store.update(a=n, b=n, c=n),
    ],
)
def test_changes_of_several_keys_are_never_seen_half(any_store, write) -> None:
    store = any_store

    def keep_writing(first: int) -> None:
        for n in range(first, first + 100):
            write(store, n)
            with store.transaction():
                for key in "abc":
                    store[key] = n

    def transacted() -> dict[str, int]:
        with store.transaction():
            return {key: store[key] for key in "abc" if key in store}

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(keep_writing, first) for first in (0, 1000, 2000)]
        while not all(writer.done() for writer in writers):
            for seen in (store.copy(), dict(list(store.items())), transacted()):
                assert (len(seen), len(set(seen.values()))) in [(0, 0), (3, 1)]
        assert [writer.result() for writer in writers] == [None] * 3


def test_a_coroutine_is_not_in_the_transaction_of_another_one_of_its_thread(store) -> None:
    async def change_and_fail(is_changed: asyncio.Event, is_seen: asyncio.Event) -> None:
        with suppress(ZeroDivisionError), store.transaction():
            store["key"] = "new"
            is_changed.set()
            await is_seen.wait()
            raise ZeroDivisionError

    async def side_by_side() -> Any:
        is_changed, is_seen = asyncio.Event(), asyncio.Event()
        changing = asyncio.create_task(change_and_fail(is_changed, is_seen))
        await is_changed.wait()
        seen = store["key"]
        is_seen.set()
        await changing
        return seen

    store["key"] = "old"
    assert asyncio.run(asyncio.wait_for(side_by_side(), 60)) == "old"
    assert store["key"] == "old"


def test_a_coroutine_that_writes_beside_the_transaction_of_another_one_of_its_thread_gets_an_error_at_once(
    path,
) -> None:
    """It would wait for itself: the thread cannot go on with the other coroutine while it waits for the lock."""
    store = open_store(path, timeout=100)

    async def hold(is_inside: asyncio.Event, is_tried: asyncio.Event) -> None:
        with store.transaction():
            store["held"] = 1
            is_inside.set()
            await is_tried.wait()

    async def side_by_side() -> None:
        is_inside, is_tried = asyncio.Event(), asyncio.Event()
        holding = asyncio.create_task(hold(is_inside, is_tried))
        await is_inside.wait()
        for write in (lambda: store.update(key=1), lambda: store.increment("n"), lambda: store.clear()):
            with pytest.raises(StorageBusy, match=r"Another task of this thread.*Do not await"):
                write()
        is_tried.set()
        await holding

    asyncio.run(asyncio.wait_for(side_by_side(), 60))
    store["after"] = 2
    assert dict(store) == {"held": 1, "after": 2}


def test_a_task_that_was_started_in_a_transaction_has_its_own_after_its_end(path) -> None:
    store = open_store(path, timeout=0.05)

    async def transact_after(is_over: asyncio.Event) -> None:
        await is_over.wait()
        with store.transaction(), ThreadPoolExecutor(1) as pool:
            assert isinstance(pool.submit(write, store, "other").exception(60), StorageBusy)
            store["late"] = 2

    async def side_by_side() -> None:
        is_over = asyncio.Event()
        with store.transaction():
            task = asyncio.create_task(transact_after(is_over))
            store["early"] = 1
        is_over.set()
        await task

    asyncio.run(asyncio.wait_for(side_by_side(), 60))
    assert dict(store) == {"early": 1, "late": 2}


# Threads and forks inside a transaction


@pytest.fixture(params=["sqlite_file", "redis", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    storage = SHARED[request.param](tmp_path, timeout=0.2)
    yield storage
    storage.close()


def test_a_thread_that_a_nested_block_waits_for_gets_an_error_instead_of_waiting_for_the_block(storage) -> None:
    with ThreadPoolExecutor(1) as pool, storage.transaction(ANN):
        storage.set(ANN, "outer", small(b""), NOW)
        for use in (lambda: storage.get(ANN, "outer", NOW), lambda: storage.transaction(ANN).__enter__()):
            with storage.transaction(ANN):
                error = pool.submit(copy_context().run, use).exception(60)
            assert isinstance(error, StorageBusy)
            assert "inside a nested transaction()" in str(error)
    assert storage.keys(ANN, NOW) == ["outer"]


def test_a_fork_that_leaves_nested_blocks_leaves_them_by_its_own_exception_and_to_its_parent(storage) -> None:
    with ExitStack() as blocks:
        for key in ("outer", "inner"):
            blocks.enter_context(storage.transaction(ANN))
            storage.set(ANN, key, small(b""), NOW)
        assert Child("fork", blocks.__exit__, SystemExit, SystemExit(), None).outcome() is False
    assert storage.keys(ANN, NOW) == ["outer", "inner"]


def begin_and_leave(storage: Storage, block: AbstractContextManager[None]) -> bool | None:
    with pytest.raises(StorageError, match="forked"), storage.transaction(ANN):
        pass
    return block.__exit__(SystemExit, SystemExit(), None)


def test_a_fork_waits_for_no_thread_that_was_in_its_transaction(storage) -> None:
    is_inside, is_over = ThreadEvent(), ThreadEvent()

    def stay_inside() -> None:
        with storage.transaction(ANN):
            is_inside.set()
            assert is_over.wait(60)

    block = storage.transaction(ANN)
    with ThreadPoolExecutor(1) as pool, block:
        thread = pool.submit(copy_context().run, stay_inside)
        try:
            assert is_inside.wait(60)
            assert not Child("fork", begin_and_leave, storage, block).outcome(timeout=30)
        finally:
            is_over.set()
        thread.result(60)


# Forks beside threads


def write_after(event: Event, store: UserStore, key: str) -> None:
    assert event.wait(60)
    store[key] = key


def test_a_fork_while_another_thread_is_in_a_transaction_can_write_and_what_it_wrote_stays(path) -> None:
    store, is_inside, is_closed = open_store(path, timeout=10), ThreadEvent(), get_context("fork").Event()

    def transact() -> None:
        with store.transaction():
            for n in range(2000):
                store["key"] = n
                is_inside.set()

    thread = Thread(target=transact)
    thread.start()
    assert is_inside.wait(60)
    child = Child("fork", write_after, is_closed, store, "child")
    thread.join()
    fork_and_exit()  # Now this process has no connection.
    is_closed.set()
    assert child.outcome() is None
    assert dict(open_store(path)) == {"key": 1999, "child": "child"}


@pytest.fixture
def busy_threads(store: UserStore) -> Iterator[None]:
    """Threads that write and read without a pause."""
    is_over = ThreadEvent()

    def keep_busy(key: str) -> None:
        while not is_over.is_set():
            store[key] = key
            assert store[key] == key

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(keep_busy, f"thread {n}") for n in range(3)]
        yield
        is_over.set()
        assert [future.result() for future in futures] == [None] * 3


def test_forks_beside_busy_threads_can_write_and_nothing_hangs(store, busy_threads) -> None:
    keys = [f"child {n}" for n in range(20)]
    for key in keys:
        assert Child("fork", write, store, key).outcome(timeout=30) is None
    assert set(keys) <= set(store)
