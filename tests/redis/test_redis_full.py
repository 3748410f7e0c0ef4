"""A server whose memory or whose connections are used up, and a user of it who may do little."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Barrier

import pytest
import redis
from backends import digest, items, large, owner, small
from servers import Port
from servers_redis import RedisCluster, RedisServer, open_redis

from flask_dash_store.codec import CODECS
from flask_dash_store.errors import SessionEnded, StorageBusy, StorageError, StorageFull
from flask_dash_store.expiry import Access
from flask_dash_store.health import HealthProbe
from flask_dash_store.storage.redis import RedisStorage
from flask_dash_store.storage.redis import storage as storage_module

ANN = owner("s.ann")
USER = digest("a user")


# Memory


@pytest.mark.parametrize("make", [small, large])
def test_the_first_write_of_a_new_owner_is_refused_by_a_full_server(server, storage, client, now, make) -> None:
    client.config_set("maxmemory", 1)
    try:
        for write in (storage.set, lambda owner, key, value, access: storage.set_all(owner, [(key, value)], access)):
            with pytest.raises(StorageFull):
                write(ANN, "k", make(b"v"), now())
    finally:
        client.config_set("maxmemory", 0)
    assert client.keys() == []


def test_new_owners_take_no_more_than_the_servers_memory(storage, client, now) -> None:
    room = 4_000_000
    client.config_set("maxmemory", client.info("memory")["used_memory"] + room)
    stored = 0
    try:
        for n in range(400):
            with suppress(StorageFull):
                storage.set(owner(f"s.{n}"), "k", small(b"1" * 32_000), now())
                stored += 1
    finally:
        client.config_set("maxmemory", 0)
    assert 0 < stored < room / 32_000 + 10


def test_a_full_server_refuses_values_over_those_that_have_expired_too(storage, client, clock, now) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    clock.step(10_000)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StorageFull):
            storage.set(ANN, "k", small(b"new"), now())
        assert storage.keys(ANN, now()) == []
    finally:
        client.config_set("maxmemory", 0)


def test_a_full_server_lets_a_session_be_renewed_and_ended(storage, client, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    client.config_set("maxmemory", 1)
    try:
        storage.renew(ANN, digest("new"), now(), USER)
        assert [info.owner for info in storage.sessions(USER, now())] == [owner("s.ann", "new")]
        with pytest.raises(SessionEnded):
            storage.get(ANN, "k", now())
        storage.end(owner("s.ann", "new"), now())
        with pytest.raises(SessionEnded):
            storage.get(owner("s.ann", "new"), "k", now())
    finally:
        client.config_set("maxmemory", 0)


# Connections


def write_in_parallel(storage: RedisStorage, now, threads: int, writes: int = 30) -> None:
    gate = Barrier(threads)

    def write(name: int) -> None:
        gate.wait(60)
        for n in range(writes):
            storage.set(owner(f"s.{name}"), f"{n}", small(b"v"), now())

    with ThreadPoolExecutor(threads) as pool:
        for writing in [pool.submit(write, name) for name in range(threads)]:
            writing.result(60)
    assert [storage.stat(owner(f"s.{name}"), now()).keys for name in range(threads)] == [writes] * threads


def test_calls_wait_for_a_connection_of_a_server_that_takes_few_clients(server, client, now) -> None:
    client.config_set("maxclients", 5)
    try:
        with closing(open_redis(server.url, timeout=30)) as storage:
            write_in_parallel(storage, now, threads=32)
    finally:
        client.config_set("maxclients", 10_000)


def test_a_process_has_no_more_connections_than_the_url_says(server, client, now) -> None:
    before = client.info("clients")["connected_clients"]
    with closing(open_redis(f"{server.url}?max_connections=2", timeout=30)) as storage:
        write_in_parallel(storage, now, threads=16)
        assert client.info("clients")["connected_clients"] <= before + 2


def test_a_cluster_has_no_more_connections_to_each_server_than_the_url_says(folder, now) -> None:
    cluster = RedisCluster(folder)
    try:
        with closing(open_redis(f"{cluster.url}?max_connections=2", timeout=30)) as storage:
            write_in_parallel(storage, now, threads=16)
    finally:
        cluster.kill()


def test_a_call_that_gets_no_connection_says_at_its_deadline_that_nothing_was_sent(server, client, now) -> None:
    storage = open_redis(server.url, timeout=0.2)
    storage.close()
    storage = open_redis(server.url, timeout=0.2)
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    client.config_set("maxclients", 1)
    try:
        with pytest.raises(StorageBusy, match="max_connections") as caught:
            storage.set(ANN, "k", small(b"v"), now())
    finally:
        client.config_set("maxclients", 10_000)
    assert "not known" not in str(caught.value)
    assert storage.get(ANN, "k", now()) is None
    storage.close()


# Rights


RIGHTS = re.compile(r"ACL SETUSER app ([^\"`]+)")


def documented(path: Path) -> list[str]:
    """The rights of the user that a document describes."""
    described = RIGHTS.search(path.read_text())
    assert described is not None
    return described[1].split()


@pytest.fixture
def with_rights(folder: Path) -> Iterator[RedisServer]:
    """A server with the user that the documentation of the storage describes."""
    port = Port()
    with closing(port), RedisServer(folder, port=port.number) as server, server.client() as client:
        rights = [right for right in documented(Path(storage_module.__file__)) if supports(client, right)]
        client.execute_command("ACL", "SETUSER", "app", *rights)
        yield server


def supports(client: redis.Redis, right: str) -> bool:
    """Whether the server knows the command: CLIENT SETINFO came with Redis 7.2."""
    version = client.info("server")["redis_version"]
    return right != "+client|setinfo" or [int(each) for each in version.split(".")[:2]] >= [7, 2]


def use_everything(storage: RedisStorage, access: Access) -> None:
    for value in (small(b"v"), large(b"v")):
        storage.set(ANN, "k", value, access)
        assert items(storage, ANN, access) == [("k", b"v")]
        assert storage.get(ANN, "k", access) is not None
    storage.set_all(ANN, [("a", small(b"1")), ("b", large(b"2"))], access)
    storage.expire(ANN, "a", access.now + 5, access)
    storage.expire(ANN, "a", None, access)
    with storage.transaction(ANN):
        storage.set(ANN, "c", large(b"3"), access, access.now + 5)
        with storage.transaction(ANN):
            storage.delete(ANN, "b", access)
            storage.clear(ANN, access)
    storage.set(ANN, "k", small(b"v"), access._replace(expires=float("inf")), access.now)
    storage.set(ANN, "l", small(b"v"), access)
    storage.renew(ANN, digest("new"), access, USER)
    renewed = owner("s.ann", "new")
    assert [info.owner for info in storage.sessions(USER, access)] == [renewed]
    assert (storage.owners("", access), storage.stat(renewed, access).keys) == (["s.ann"], 1)
    dump = storage.dump("s.ann")
    assert dump is not None
    storage.load("s.ann", dump)
    assert list(storage.problems()) == []
    storage.end(renewed, access)
    storage.sessions(USER, access._replace(now=access.now + 10_000))
    storage.maintain(access.now + 1e9, access.now + 1e9, wait=True)
    assert list(storage.all_owners()) == []


def test_the_documented_rights_are_enough(with_rights, now, caplog) -> None:
    url = with_rights.url.replace("//", "//app:password@")
    with caplog.at_level(logging.WARNING), closing(open_redis(url)) as storage:
        assert "+info" in caplog.text
        use_everything(storage, now())


def test_a_user_without_dangerous_commands_is_warned_once_and_can_use_everything(with_rights, now, caplog) -> None:
    with with_rights.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "+@all", "-@dangerous")
    with caplog.at_level(logging.WARNING):
        storage = open_redis(with_rights.url.replace("//", "//app:password@"))
    assert len(caplog.records) == 1
    assert "+info" in caplog.text
    use_everything(storage, now())
    storage.close()


def test_the_guide_names_the_same_rights() -> None:
    guide = Path(__file__).parents[2] / "docs" / "scaling.md"
    assert documented(guide) == documented(Path(storage_module.__file__))


def test_a_missing_right_is_an_error_that_names_it(with_rights, now) -> None:
    with with_rights.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "-hmget")
    storage = open_redis(with_rights.url.replace("//", "//app:password@"))
    with closing(storage), pytest.raises(StorageError, match="hmget"):
        storage.get(ANN, "k", now())


def test_health_says_that_the_servers_memory_is_full(storage, client, clock) -> None:
    probe = HealthProbe(storage, CODECS["json"]([b"k" * 32], False), clock)
    assert probe.health(60).ok
    used = client.info("memory")["used_memory"]
    try:
        client.config_set("maxmemory", used + 100_000_000)
        health = probe.health(60)
        assert health.ok
        assert health.free is not None
        assert 90_000_000 < health.free < 110_000_000
        client.config_set("maxmemory", 1)
        health = probe.health(60)
        assert (health.ok, health.can_read, health.can_write, health.free) == (False, True, False, 0)
    finally:
        client.config_set("maxmemory", 0)
    assert probe.health(60).free is None
