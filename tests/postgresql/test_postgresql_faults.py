"""When PostgreSQL fails, each call returns or raises the package's error in time, and later calls work again.

Promises: docs/scaling.md, "PostgreSQL".
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import psycopg
import pytest
from backends import TTL, open_url, owner, small
from clocks import HandClock
from servers_postgresql import PostgresServer, running

from flask_dash_store.errors import StorageBusy, StorageCorrupt, StorageError, StorageFull
from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.owner import Owner
from flask_dash_store.storage.postgresql import PostgresqlStorage
from flask_dash_store.storage.postgresql.connection import Connection as PostgresqlConnection
from flask_dash_store.storage.transaction import on_rollback

ACCESS = ExpiryPolicy(TTL, HandClock()).access()
ANN = owner("s.ann")
DEADLINE = 30.0


@pytest.fixture(scope="module")
def one_server() -> Iterator[PostgresServer]:
    with running(max_connections="7", superuser_reserved_connections="0") as server:
        yield server


@pytest.fixture
def server(one_server: PostgresServer) -> PostgresServer:
    """A server that answers, whatever the last test has done to it, with room for seven connections."""
    one_server.stop()
    one_server.start()
    return one_server


@pytest.fixture
def storage(server: PostgresServer) -> Iterator[PostgresqlStorage]:
    storage = open_url(server.url, timeout=10)
    storage.set(ANN, "k", small(b"old"), ACCESS)
    yield storage
    storage.close()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def within_deadline(call: Callable[[], object]) -> object:
    """What a call returns or raises, which it must do in time."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).exception(timeout=DEADLINE)


READ = "a read"
WRITE = "a write"
TRANSACTION = "a transaction"


def use(storage: PostgresqlStorage, kind: str) -> None:
    if kind == READ:
        assert storage.get(ANN, "k", ACCESS) is not None
    elif kind == WRITE:
        storage.set(ANN, "k", small(b"new"), ACCESS)
    else:
        with storage.transaction(ANN):
            use(storage, READ)
            use(storage, WRITE)


@pytest.mark.parametrize("kind", [READ, WRITE, TRANSACTION])
@pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.kill])
def test_a_server_that_was_restarted_between_two_calls_is_not_noticed(server, storage, end, kind) -> None:
    end(server)
    server.start()
    use(storage, kind)
    assert storage.get(ANN, "k", ACCESS) == small(b"old" if kind == READ else b"new")


@pytest.mark.parametrize("kind", [READ, WRITE, TRANSACTION])
def test_without_a_server_each_call_fails_at_once_and_with_one_again_it_does_not(server, storage, kind) -> None:
    server.stop()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(use, storage, kind) for _ in range(40)]
        errors = [future.exception(timeout=9) for future in futures]  # To wait for others takes 10 seconds.
    assert all(isinstance(error, StorageError) and "No such file" in str(error) for error in errors)
    server.start()
    use(storage, kind)


@pytest.mark.parametrize("kind", [READ, WRITE, TRANSACTION])
def test_a_server_that_stops_answering_is_given_up_in_time(server, storage, kind) -> None:
    hasty = open_url(server.url, timeout=0.1)
    use(hasty, READ)
    server.signal(signal.SIGSTOP)
    try:
        error = within_deadline(lambda: use(hasty, kind))
        assert isinstance(error, StorageError)
        assert "silent" in str(error)
    finally:
        server.signal(signal.SIGCONT)
    use(hasty, kind)
    hasty.close()


def test_a_server_that_accepts_no_connection_is_given_up_in_time(server, storage) -> None:
    server.signal(signal.SIGSTOP)
    try:
        assert isinstance(within_deadline(lambda: open_url(server.url, timeout=0.1)), StorageError)
    finally:
        server.signal(signal.SIGCONT)


def test_a_server_killed_under_load_loses_nothing_that_was_acknowledged(server, storage) -> None:
    written: list[list[str]] = [[], [], [], []]
    errors: list[Exception] = []
    is_over = threading.Event()
    has_failed = threading.Event()

    def write(worker: int) -> None:
        for n in itertools.count():
            if is_over.is_set():
                return
            try:
                storage.set(owner(f"u.{worker}"), f"{n}", small(b""), ACCESS)
                written[worker].append(f"{n}")
            except Exception as error:
                errors.append(error)
                has_failed.set()

    def wait_until_each_has_written(more: int) -> None:
        goals = [len(keys) + more for keys in written]
        deadline = time.monotonic() + DEADLINE
        while any(len(keys) < goal for keys, goal in zip(written, goals, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        try:
            for worker in range(4):
                pool.submit(write, worker)
            wait_until_each_has_written(100)
            server.kill()
            assert has_failed.wait(DEADLINE)
            server.start()
            wait_until_each_has_written(100)
        finally:
            is_over.set()
    assert [error for error in errors if not isinstance(error, StorageError)] == []
    for worker, keys in enumerate(written):
        assert set(keys) <= set(storage.keys(owner(f"u.{worker}"), ACCESS))


def test_a_server_that_has_become_a_standby_is_left_for_its_successor(server, storage) -> None:
    with server.connect() as connection:
        connection.execute("ALTER ROLE tests SET default_transaction_read_only = on")
    with_standby = open_url(server.url)
    use(with_standby, READ)
    with server.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER ROLE tests RESET default_transaction_read_only")
    with pytest.raises(StorageError, match="read-only"):
        use(with_standby, WRITE)
    use(with_standby, WRITE)
    with_standby.close()


def waiting(server: PostgresServer) -> int:
    """The process of the server that waits for a lock, as soon as there is one."""
    deadline = time.monotonic() + DEADLINE
    with server.connect() as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while (found := connection.execute(query).fetchone()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return found[0]


def lose_connection(server: PostgresServer, submit: Callable[[], Future[None]]) -> Future[None]:
    """Have a call's connection end while the server is working on it."""
    with server.connect() as connection:
        with connection.transaction():
            connection.execute("LOCK TABLE flask_dash_store.sessions IN ACCESS EXCLUSIVE MODE")
            future = submit()
            pid = waiting(server)
            connection.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        return future


def test_a_read_whose_connection_is_lost_is_done_again(server, storage, thread) -> None:
    lose_connection(server, lambda: thread.submit(use, storage, READ)).result(timeout=DEADLINE)


def test_a_transaction_whose_connection_is_lost_before_it_began_begins_again(server, storage, thread) -> None:
    with storage.transaction(ANN):
        future = thread.submit(use, storage, TRANSACTION)
        with server.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 10000)", (waiting(server),))
    future.result(timeout=DEADLINE)


@pytest.mark.parametrize("kind", [WRITE, TRANSACTION])
def test_a_write_whose_connection_is_lost_is_an_error_and_not_done_again(server, storage, thread, kind) -> None:
    error = lose_connection(server, lambda: thread.submit(use, storage, kind)).exception(timeout=DEADLINE)
    assert isinstance(error, StorageError)
    assert ("not known" in str(error)) == (kind == WRITE)
    assert storage.get(ANN, "k", ACCESS) == small(b"old")


def test_a_transaction_whose_connection_is_lost_is_rolled_back_even_if_the_block_goes_on(server, storage) -> None:
    rolled_back: list[Owner] = []

    def go_on() -> None:
        with storage.transaction(ANN):
            storage.set(ANN, "k", small(b"new"), ACCESS)
            on_rollback(storage, lambda: rolled_back.append(ANN))
            server.kill()
            for _ in range(2):
                with pytest.raises(StorageError):
                    storage.set(ANN, "k", small(b"newer"), ACCESS)

    with pytest.raises(StorageError, match="rolled back"):
        go_on()
    assert rolled_back == [ANN]
    server.start()
    assert storage.get(ANN, "k", ACCESS) == small(b"old")


class Interruption(BaseException):
    """What a signal handler or gevent.Timeout raises."""


def test_an_interruption_leaves_nested_blocks_as_it_came_and_rolls_them_back(server, storage, thread) -> None:
    def interrupt(*_: object) -> None:
        raise Interruption

    def interrupt_the_call() -> None:
        waiting(server)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with server.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE flask_dash_store.sessions IN ACCESS EXCLUSIVE MODE")
            thread.submit(interrupt_the_call)
            with pytest.raises(Interruption), storage.transaction(ANN), storage.transaction(ANN):
                use(storage, WRITE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert storage.get(ANN, "k", ACCESS) == small(b"old")
    use(storage, TRANSACTION)


def test_threads_share_what_connections_the_server_has_left(server, storage) -> None:
    held = [server.connect() for _ in range(4)]
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: [use(storage, TRANSACTION) for _ in range(20)], range(8)))
        with pytest.raises(StorageError, match="too many clients"):
            open_url(server.url)
    finally:
        for connection in held:
            connection.close()
    use(storage, WRITE)


def test_a_connection_that_was_lost_in_another_thread_is_not_used_again(server, storage, thread, monkeypatch) -> None:
    refused = threading.Event()
    open_connection = PostgresqlConnection.open

    def open_or_tell(*args: Any) -> PostgresqlConnection:
        try:
            return open_connection(*args)
        except psycopg.Error:
            refused.set()
            raise

    monkeypatch.setattr(PostgresqlConnection, "open", open_or_tell)
    pool = storage._pool  # noqa: SLF001
    ours = pool.acquire()
    others = [server.connect() for _ in range(6)]
    try:
        future = thread.submit(use, storage, WRITE)
        assert refused.wait(DEADLINE)
        others[0].execute("SELECT pg_terminate_backend(%s, 10000)", (ours.info.backend_pid,))
        pool.release(ours)
        future.result(timeout=DEADLINE)
    finally:
        for connection in others:
            connection.close()


@pytest.mark.parametrize("left", [0, 1])  # The socket is one, and the selector by which psycopg waits another.
def test_a_process_that_can_open_no_more_files_gets_an_error_of_its_own(server, storage, left) -> None:
    storage._pool.close_idle()  # noqa: SLF001
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    files: list[int] = []
    try:
        with suppress(OSError):
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(left):
            os.close(files.pop())
        with pytest.raises(StorageError):
            use(storage, READ)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for file in files:
            os.close(file)
    use(storage, READ)


@pytest.mark.parametrize(("state", "kind"), [("53100", StorageFull), ("XX001", StorageCorrupt)])
def test_what_the_server_says_of_its_disk_is_an_error_of_its_own(server, storage, state, kind) -> None:
    with server.connect() as connection:
        connection.execute("SET search_path = flask_dash_store")
        connection.execute(
            f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE SQLSTATE '{state}'; END$$"
        )
        connection.execute('CREATE TRIGGER fail BEFORE UPDATE ON "values" FOR EACH ROW EXECUTE FUNCTION fail()')
        try:
            with pytest.raises(kind):
                use(storage, WRITE)
        finally:
            connection.execute("DROP FUNCTION fail CASCADE")
    assert storage.get(ANN, "k", ACCESS) == small(b"old")
    use(storage, WRITE)


def hold(url: str, ready: Connection, forks: bool) -> None:
    storage = open_url(url)
    with storage.transaction(ANN):
        storage.set(ANN, "k", small(b"new"), ACCESS)
        ready.send(os.fork() if forks else 0)
        signal.pause()


@pytest.mark.parametrize("forks", [False, True])
def test_a_client_that_is_killed_inside_a_transaction_holds_no_lock_not_even_in_its_forks(
    server, storage, forks
) -> None:
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=hold, args=(server.url, sender, forks))
    process.start()
    pids = [process.pid]
    try:
        for _ in range(2 if forks else 1):  # A fork sends what fork() gives it.
            assert receiver.poll(DEADLINE)
            pids.append(receiver.recv())
        with pytest.raises(StorageBusy):
            open_url(server.url, timeout=0.1).set(ANN, "k", small(b"new"), ACCESS)
        os.kill(pids[0], signal.SIGKILL)
        use(storage, TRANSACTION)
    finally:
        for pid in pids:
            if pid:
                os.kill(pid, signal.SIGKILL)
        process.join()
