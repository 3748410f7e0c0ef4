"""What the storage does when a Redis server dies, hangs, fills up or becomes a replica: an error in time, and no loss.

Promises: docs/scaling.md, "Redis and Valkey". redis-py handed an answer to the next caller of a connection after a
command was cancelled: https://github.com/redis/redis-py/issues/2665 (CVE-2023-28859).
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from multiprocessing import get_context
from threading import Event, Thread
from typing import Any

import pytest
import redis
from backends import TTL, Child, items, large, owner, small
from servers import Port
from servers_redis import RedisServer, Sentinel, open_redis

from flask_dash_store.errors import SessionEnded, StorageError, StorageFull
from flask_dash_store.expiry import Access
from flask_dash_store.storage.redis import RedisStorage
from flask_dash_store.storage.redis.scripts import RELEASE_SAVEPOINT, SET

KEPT = ("--appendonly", "yes")
ANN, BOB, EVE = owner("s.ann"), owner("s.bob"), owner("s.eve")


def until_it_works(call: Callable[[], Any], seconds: float = 60) -> Any:
    """The answer of a storage that recovers. Until then it may raise the package's errors alone."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except StorageError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_was_acknowledged_survives_a_server_that_is_killed_and_the_app_recovers(folder, now) -> None:
    with RedisServer(folder, *KEPT) as server:
        storage = open_redis(server.url, timeout=5)
        is_over, acknowledged = Event(), []
        has_written = [Event() for _ in range(3)]

        def keep_writing(name: int) -> None:
            n = 0
            while not is_over.is_set():
                with suppress(StorageError):
                    storage.set(ANN, f"{name} {n}", small(b"v"), now())
                    acknowledged.append(f"{name} {n}")
                    has_written[name].set()
                n += 1
                if n % 100 == 0:
                    time.sleep(0.01)

        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(keep_writing, name) for name in range(3)]
            try:
                for _ in range(2):
                    for event in has_written:
                        event.clear()
                        assert event.wait(60)
                    server.kill()
                    server.start()
                for event in has_written:
                    event.clear()
                    assert event.wait(60)
            finally:
                is_over.set()
            assert [writer.result(60) for writer in writers] == [None] * 3
        assert set(acknowledged) <= set(until_it_works(lambda: storage.keys(ANN, now())))
        storage.close()


def test_a_server_that_is_not_there_is_an_error_in_each_call_until_it_comes(folder, now, caplog) -> None:
    server = RedisServer(folder)
    server.kill()
    with caplog.at_level(logging.WARNING):
        storage = open_redis(server.url)
    assert "cannot be used now" in caplog.text
    for call in (storage.get, storage.delete):
        with pytest.raises(StorageError):
            call(ANN, "k", now())
    with pytest.raises(StorageError), storage.transaction(ANN):
        pass
    server.start()
    storage.set(ANN, "k", small(b"v"), now())
    assert items(storage, ANN, now()) == [("k", b"v")]
    server.kill()
    storage.close()


def test_a_cluster_that_is_not_there_is_an_error_in_each_call(now, caplog) -> None:
    port = Port()
    with closing(port), caplog.at_level(logging.WARNING):
        storage = open_redis(f"redis+cluster://127.0.0.1:{port.number}")
        assert "cannot be used now" in caplog.text
        for call in (storage.get, storage.delete):
            with pytest.raises(StorageError):
                call(ANN, "k", now())
        storage.close()


def test_a_server_that_does_not_answer_is_an_error_at_the_deadline(folder, now) -> None:
    with RedisServer(folder) as server:
        storage = open_redis(server.url, timeout=0.1)
        storage.set(ANN, "k", small(b"v"), now())
        server.pause()
        began = time.monotonic()
        with pytest.raises(StorageError, match="did not answer"):
            storage.get(ANN, "k", now())
        with pytest.raises(StorageError, match="did not answer"), storage.transaction(ANN):
            pass
        assert time.monotonic() - began < 30
        server.resume()
        assert until_it_works(lambda: storage.get(ANN, "k", now())) == small(b"v")
        storage.close()


def test_a_write_that_was_not_answered_is_not_sent_again(folder, now) -> None:
    with RedisServer(folder) as server, server.client() as client:
        storage = open_redis(server.url, timeout=0.1)
        storage.set(ANN, "k", small(b"old"), now())
        client.config_resetstat()
        server.pause()
        with pytest.raises(StorageError, match="not known whether"):
            storage.set(ANN, "k", small(b"new"), now())
        server.resume()
        until_it_works(lambda: storage.get(ANN, "k", now()))
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
        storage.close()


def test_a_full_server_refuses_what_is_new_and_lets_what_is_there_be_read_and_deleted(server, storage, client, now):
    for each in [ANN, BOB]:
        storage.set(each, "k", large(b"old"), now())
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StorageFull):
            storage.set(ANN, "k", small(b"new"), now())
        with pytest.raises(StorageFull), storage.transaction(ANN):
            pass
        assert items(storage, ANN, now()) == [("k", b"old")]
        assert storage.get(ANN, "k", now()._replace(expires=now().expires + TTL)) is not None
        assert storage.stat(ANN, now()).expires == now().expires + TTL
        assert storage.delete(ANN, "k", now()) is True
        storage.clear(ANN, now())
        assert storage.end(BOB, now()) == storage.end(EVE, now()) == now().now
    finally:
        client.config_set("maxmemory", 0)
    storage.set(ANN, "k", small(b"new"), now())
    with pytest.raises(SessionEnded):
        storage.get(BOB, "k", now())


@pytest.mark.parametrize(("policy", "warns"), [("allkeys-lru", True), ("volatile-ttl", True), ("noeviction", False)])
def test_a_server_that_may_evict_is_warned_of(server, client, caplog, policy, warns) -> None:
    client.config_set("maxmemory", "1gb")
    client.config_set("maxmemory-policy", policy)
    try:
        with caplog.at_level(logging.WARNING):
            open_redis(server.url).close()
    finally:
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
    assert (policy in caplog.text) == warns


def test_a_server_that_has_become_a_replica_is_an_error_until_it_is_a_master(storage, client, now) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    client.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(StorageError, match=r"(?i)read.?only"):
            storage.set(ANN, "k", small(b"new"), now())
    finally:
        client.replicaof("NO", "ONE")
    storage.set(ANN, "k", small(b"new"), now())


def test_scripts_that_the_server_has_forgotten_are_sent_again(storage, client, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    client.script_flush()
    storage.set(ANN, "k", small(b"v"), now())


def test_when_the_master_dies_sentinels_name_another_and_the_app_goes_on(folder, now) -> None:
    with Sentinel(folder) as sentinel:
        storage = open_redis(sentinel.url, timeout=5)
        storage.set(ANN, "k", small(b"v"), now())
        sentinel.wait_for_replica()
        sentinel.master.kill()
        until_it_works(lambda: storage.set(ANN, "other", small(b"v"), now()))
        assert storage.keys(ANN, now()) == ["k", "other"]
        storage.close()


def die_in_transaction(url: str, access: Access, is_inside: Any) -> None:
    with open_redis(url, lease=0.5).transaction(ANN):
        open_redis(url).set(BOB, "k", small(b""), access)
        is_inside.set()
        Event().wait()


def test_a_process_that_is_killed_in_a_transaction_keeps_others_out_for_its_lease_alone(server, storage, now) -> None:
    context = get_context("spawn")
    is_inside = context.Event()
    process = context.Process(target=die_in_transaction, args=(server.url, now(), is_inside), daemon=True)
    process.start()
    assert is_inside.wait(60)
    process.kill()
    process.join(60)
    until_it_works(lambda: storage.set(ANN, "k", small(b"v"), now()))
    assert items(storage, ANN, now()) == [("k", b"v")]


# An answer that does not come


class Lossy:
    """A way to a server that can be slow, and lose the answer to one request and the connection with it."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._marker: bytes | None = None
        self.slow_reads = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        Thread(target=self._accept, daemon=True).start()

    def lose(self, marker: bytes) -> None:
        """Lose the answer to the next request that holds this."""
        self._marker = marker

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                Thread(target=self._serve, args=self._listener.accept()[:1], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(ConnectionError):
            server.connect(str(self._server.socket))
            is_lost = False
            while True:
                for side in select.select([client, server], [], [])[0]:
                    data = side.recv(65536)
                    if self.slow_reads:
                        self.slow_reads -= 1
                        time.sleep(0.005)
                    if not data or (side is server and is_lost):
                        return
                    if side is client and self._marker is not None and self._marker in data:
                        is_lost, self._marker = True, None
                    (server if side is client else client).sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def lossy(server: RedisServer) -> Iterator[Lossy]:
    with closing(Lossy(server)) as lossy:
        yield lossy


@pytest.fixture
def behind(lossy: Lossy) -> Iterator[RedisStorage]:
    """A storage whose answers can be lost."""
    with closing(open_redis(lossy.url)) as storage:
        yield storage


class Interrupt(BaseException):
    """What a signal's handler may raise anywhere, such as gunicorn's when a request takes too long."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the next wait for an answer interrupted, and something done when the one after it begins."""
    parser = redis.connection.DefaultParser

    def interrupt(then: Callable[[], None] = lambda: None) -> None:
        def read(*_: Any, **__: Any) -> None:
            monkeypatch.setattr(parser, "read_response", read_after)
            raise Interrupt

        def read_after(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            then()
            return parser.read_response(*args, **options)

        monkeypatch.setattr(parser, "read_response", read)

    return interrupt


def test_a_write_whose_answer_was_lost_says_that_it_is_not_known_and_a_read_is_repeated(lossy, behind, now) -> None:
    behind.set(ANN, "k", small(b"old"), now())
    lossy.lose(SET.sha.encode())
    with pytest.raises(StorageError, match="not known whether"):
        behind.set(ANN, "k", small(b"new"), now())
    lossy.lose(b"HMGET")
    assert behind.get(ANN, "k", now()) == small(b"new")


def test_a_large_value_may_take_longer_than_an_answer(lossy, now) -> None:
    with closing(open_redis(lossy.url, timeout=1)) as storage:
        lossy.slow_reads = 300
        storage.set(ANN, "k", small(b"1" * 30_000_000), now())
        assert lossy.slow_reads == 0
        assert items(storage, ANN, now()) == [("k", b"1" * 30_000_000)]


def test_a_write_that_the_server_has_surely_not_done_is_not_called_in_doubt(folder, now) -> None:
    with RedisServer(folder) as server, closing(open_redis(server.url)) as storage:
        server.kill()
        with pytest.raises(StorageError) as caught:
            storage.set(ANN, "k", small(b"new"), now())
    assert "not known" not in str(caught.value)


@pytest.mark.parametrize("script", [SET, RELEASE_SAVEPOINT])
def test_a_transaction_in_which_a_write_is_in_doubt_is_rolled_back_as_a_whole(
    lossy, behind, storage, now, script
) -> None:
    behind.set(ANN, "k", small(b"old"), now())
    with pytest.raises(StorageError, match="rolled back"), behind.transaction(ANN):
        behind.set(ANN, "before", small(b"v"), now())
        with behind.transaction(ANN):
            behind.delete(ANN, "none", now())
        lossy.lose(script.sha.encode())
        with pytest.raises(StorageError, match="not known whether"), behind.transaction(ANN):
            behind.set(ANN, "k", small(b"new"), now())
        for call in (behind.get, behind.delete):
            with pytest.raises(StorageError, match="rolled back"):
                call(ANN, "k", now())
    assert items(storage, ANN, now()) == [("k", b"old")]
    storage.set(ANN, "k", small(b"new"), now())


def test_a_lease_whose_answer_was_lost_or_not_waited_for_is_released(lossy, behind, client, now, interrupt) -> None:
    behind.set(ANN, "k", small(b"old"), now())
    lossy.lose(b"NX")
    with pytest.raises(StorageError), behind.transaction(ANN):
        pass
    assert client.keys() == [b"user_store:{s.ann}"]
    with behind.transaction(ANN):
        interrupt()
        with suppress(Interrupt):
            behind.set(BOB, "k", small(b"v"), now())
        assert client.keys("*s.bob*") == []


def test_an_answer_that_is_no_longer_waited_for_is_given_to_no_other_call(folder, now, interrupt) -> None:
    with Sentinel(folder) as sentinel, closing(open_redis(sentinel.url)) as storage:
        for each in [ANN, BOB]:
            storage.set(each, "k", small(each.name.encode()), now())
        calls: list[Callable[[], Any]] = [
            lambda: storage.items(ANN, now()),
            lambda: storage.get(ANN, "k", now()),
            lambda: storage.keys(ANN, now()),
            lambda: list(storage.all_owners()),
        ]
        for call in calls:
            sentinel.master.pause()
            interrupt(then=sentinel.master.resume)
            with pytest.raises(Interrupt):
                call()
            assert items(storage, BOB, now()) == [("k", b"s.bob")]


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
def test_a_fork_that_leaves_a_nested_block_leaves_the_parents_as_it_is(storage, now, error) -> None:
    with storage.transaction(ANN):
        storage.set(ANN, "outer", small(b"v"), now())
        with ExitStack() as stack:
            stack.enter_context(storage.transaction(ANN))
            storage.set(ANN, "inner", small(b"v"), now())
            child = Child("fork", stack.__exit__, type(error) if error else None, error, None)
            assert child.outcome(timeout=30) is False
    assert storage.keys(ANN, now()) == ["outer", "inner"]
