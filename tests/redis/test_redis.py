"""What the Redis storage promises beyond the contract: its round trips, what the server expires, and what faults do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from urllib.parse import urlencode

import pytest
import redis
from backends import KEEP_ENDED, TTL, items, large, open_redis, small
from servers import Port
from servers_redis import RedisServer

from flask_dash_store.errors import (
    ConfigurationError,
    QuotaExceeded,
    StorageCorrupt,
    StorageError,
    ValueTooLarge,
)
from flask_dash_store.expiry import Access, ExpiryPolicy
from flask_dash_store.storage.base import Storage
from flask_dash_store.storage.redis.server import Server
from flask_dash_store.storage.redis.url import parse

MARGIN = 61.0
HASH = "user_store:{ann}"
LEASE = "user_store:{ann}:lease"


# Round trips


def transact(storage: Storage, access: Access) -> None:
    with storage.transaction("ann"):
        stored = storage.get("ann", "k", access)
        assert stored is not None
        storage.set("ann", "k", stored, access, "keep")


TRIPS: dict[str, tuple[int, Callable[[Storage, Access], object]]] = {
    "get": (1, lambda storage, access: storage.get("ann", "k", access)),
    "get in vain": (1, lambda storage, access: storage.get("ann", "other", access)),
    "get a large value": (1, lambda storage, access: storage.get("ann", "large", access)),
    "has": (1, lambda storage, access: storage.has("ann", "k", access)),
    "keys": (1, lambda storage, access: storage.keys("ann", access)),
    "items": (1, lambda storage, access: storage.items("ann", access)),
    "nbytes": (1, lambda storage, access: storage.nbytes("ann", access)),
    "set": (1, lambda storage, access: storage.set("ann", "k", small(b"new"), access)),
    "set a large value": (1, lambda storage, access: storage.set("ann", "k", large(b"new"), access)),
    "set anew": (1, lambda storage, access: storage.set("bob", "k", small(b"new"), access)),
    "expire": (1, lambda storage, access: storage.expire("ann", "k", access.now + 1, access)),
    "delete": (1, lambda storage, access: storage.delete("ann", "k", access)),
    "clear": (1, lambda storage, access: storage.clear("ann", access)),
    "end": (1, lambda storage, access: storage.end("ann", access)),
    "read and write in a transaction": (4, transact),
}


@pytest.mark.parametrize("name", TRIPS)
def test_a_call_is_one_round_trip(storage, client, now, name) -> None:
    def reads() -> int:
        return client.info("stats")["total_reads_processed"]

    trips, call = TRIPS[name]
    storage.set("ann", "large", large(b"v"), now())
    for _ in range(2):  # The second time, the server knows the script.
        client.delete(HASH)
        storage.set("ann", "large", large(b"v"), now())
        storage.set("ann", "k", small(b"old"), now())
        before = reads()
        call(storage, now())
        made = reads() - before - 1
    assert made == trips


def test_a_read_that_touches_is_two_round_trips_and_the_next_one(storage, client, clock, now) -> None:
    storage.set("ann", "k", small(b"v"), now())
    storage.get("ann", "k", now()._replace(touch_threshold=-1.0))  # The server knows the script after that.
    before = client.info("stats")["total_reads_processed"]
    clock.step(TTL / 2)
    storage.get("ann", "k", now())
    storage.get("ann", "k", now())
    assert client.info("stats")["total_reads_processed"] - before - 1 == 3


# What the server does by itself


@pytest.mark.parametrize("call", ["set", "get"])
def test_the_server_removes_an_owner_a_little_after_its_time(storage, client, clock, now, call) -> None:
    storage.set("ann", "k", small(b"v"), now())
    assert TTL <= client.pttl(HASH) / 1000 <= TTL + MARGIN
    clock.step(TTL / 2)
    client.pexpire(HASH, 10_000)
    storage.get("ann", "k", now()) if call == "get" else storage.set("ann", "other", small(b"v"), now())
    assert TTL <= client.pttl(HASH) / 1000 <= TTL + MARGIN


def test_the_server_keeps_what_has_no_expiry(storage, client, clock, now) -> None:
    storage.set("ann", "k", small(b"v"), now())
    storage.set("ann", "k", small(b"v"), ExpiryPolicy(None, clock).access())
    assert client.pttl(HASH) == -1


@pytest.mark.parametrize("in_transaction", [False, True])
def test_the_server_knows_that_an_owner_ended_for_as_long_as_it_was_told(storage, client, now, in_transaction) -> None:
    storage.set("ann", "k", small(b"v"), now())
    with storage.transaction("ann") if in_transaction else nullcontext():
        storage.end("ann", now())
    assert KEEP_ENDED - MARGIN <= client.pttl(HASH) / 1000 <= KEEP_ENDED
    client.delete(HASH)
    assert storage.get("ann", "k", now()) is None


def key_seconds(client: redis.Redis, key: str) -> list[float | None]:
    """How long the server keeps the fields of a value; None where it knows no expiry of fields."""
    with suppress(redis.ResponseError):
        names = [f"{kind}:{key}" for kind in "ivb"]
        return [ms if ms < 0 else ms / 1000 for ms in client.execute_command("HPTTL", HASH, "FIELDS", 3, *names)]
    return [None] * 3


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_key_with_a_time_of_its_own_is_removed_by_a_server_that_can(
    storage, client, clock, now, in_transaction
) -> None:
    for ttl in (50.0, 90.0):
        with storage.transaction("ann") if in_transaction else nullcontext():
            storage.set("ann", "k", large(b"v"), now(), clock() + ttl)
        assert all(left is None or ttl <= left <= ttl + MARGIN for left in key_seconds(client, "k"))
    with storage.transaction("ann") if in_transaction else nullcontext():
        storage.expire("ann", "k", None, now())
    assert all(left is None or left == -1 for left in key_seconds(client, "k"))
    with storage.transaction("ann") if in_transaction else nullcontext():
        storage.expire("ann", "k", clock() + 10, now())
    assert all(left is None or 10 <= left <= 10 + MARGIN for left in key_seconds(client, "k"))
    clock.step(10)
    assert storage.get("ann", "k", now()) is None


def test_what_the_server_has_removed_takes_nothing_of_the_quota(server, client, clock, now) -> None:
    limited = open_redis(server.url, max_bytes=1000, max_keys=2)
    limited.set("ann", "first", small(b"1" * 100), now())
    limited.set("ann", "k", small(b"1" * 800), now(), clock() + 50)
    client.hdel(HASH, "i:k", "v:k")  # as if its time had come
    with pytest.raises(QuotaExceeded, match="105 are taken"):
        limited.set("ann", "large", small(b"2" * 1000), now())
    limited.set("ann", "large", small(b"2" * 800), now())
    assert limited.keys("ann", now()) == ["first", "large"]
    limited.close()


def test_keys_that_expired_by_themselves_are_purged_on_a_server_that_cannot(storage, clock, now) -> None:
    for n in range(3):
        storage.set("ann", f"k{n}", large(b"v"), now(), clock() + 5)
    storage.set("ann", "stays", small(b"v"), now())
    clock.step(5)
    assert [storage.purge_keys(clock(), limit=2) for _ in range(3)] == [2, 1, 0]
    assert items(storage, "ann", now()) == [("stays", b"v")]


def test_what_the_server_names_twice_counts_once(storage, client, clock, now, monkeypatch) -> None:
    for owner in ["ann", "bob"]:
        storage.set(owner, "k", small(b"v"), now())
    client.hset("user_store:{eve}", "expires", "rubbish")
    scan = Server.scan
    monkeypatch.setattr(Server, "scan", lambda *args: (page for page in scan(*args) for _ in range(2)))
    assert storage.owners("", now()) == ["ann", "bob"]
    assert sorted(storage.everyone()) == ["ann", "bob", "eve"]
    clock.step(TTL)
    assert storage.purge(clock(), 0.0, limit=10) == 3


def test_it_purges_itself(storage) -> None:
    assert storage.purges_itself


# All of an owner


def test_damage_costs_one_key(storage, client, now) -> None:
    for key in ["header", "payload", "body", "whole"]:
        storage.set("ann", key, large(b"v"), now())
    client.hset(HASH, "i:header", "rubbish")
    client.hdel(HASH, "v:payload", "b:body")
    problems = sorted(storage.problems(), key=lambda problem: problem.partition("under")[2])
    assert [problem.split("'")[1] for problem in problems] == ["body", "header", "payload"]
    assert storage.get("ann", "header", now()) is None
    for key in ["payload", "body"]:
        with pytest.raises(StorageCorrupt, match=key):
            storage.get("ann", key, now())
    for key in ["header", "payload", "body"]:
        storage.delete("ann", key, now())
    client.hset(HASH, "bytes", "rubbish")
    storage.set("ann", "header", small(b"v"), now())
    assert items(storage, "ann", now()) == [("whole", b"v"), ("header", b"v")]


def test_a_key_of_another_kind_is_reported_and_left(storage, client, now) -> None:
    client.set(HASH, "somebody else's")
    assert [problem.startswith("ann: ") for problem in storage.problems()] == [True]
    for call in (storage.get, storage.delete):
        with pytest.raises(StorageCorrupt, match="WRONGTYPE"):
            call("ann", "k", now())
    assert client.get(HASH) == b"somebody else's"


def test_a_value_beyond_the_servers_limit_is_refused_with_its_name(server, client, now) -> None:
    limit = client.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
    client.config_set("proto-max-bulk-len", 2**20)
    try:
        storage = open_redis(server.url)
        storage.set("ann", "fits", small(b"1" * 2**20), now())
        for value in (small(b"1" * (2**20 + 1)), large(b"2" * 2**20)):
            with pytest.raises(ValueTooLarge, match=r"1048576 .*proto-max-bulk-len"):
                storage.set("ann", "k", value, now())
        assert storage.keys("ann", now()) == ["fits"]
        storage.close()
    finally:
        client.config_set("proto-max-bulk-len", limit)


def test_a_large_value_comes_back_whole(storage, now) -> None:
    storage.set("ann", "k", large(b"1" * 20_000_000), now())
    assert items(storage, "ann", now()) == [("k", b"1" * 20_000_000)]


# Transactions


def test_who_has_lost_the_lease_has_written_nothing_and_is_told_so(storage, client, now) -> None:
    storage.set("ann", "k", small(b"old"), now())
    with pytest.raises(StorageError, match="not heard of"), storage.transaction("ann"):
        storage.set("ann", "k", small(b"mine"), now())
        client.delete(LEASE)  # as if it had been away for too long
        ThreadPoolExecutor(1).submit(storage.set, "ann", "k", small(b"theirs"), now()).result(30)
    assert items(storage, "ann", now()) == [("k", b"theirs")]
    assert client.keys("*") == [HASH.encode()]


def test_a_transaction_lasts_as_long_as_it_is_heard_of(server, client, now) -> None:
    storage = open_redis(server.url, lease=5)
    with storage.transaction("ann"):
        client.pexpire(LEASE, 1000)
        storage.get("ann", "k", now())
        assert client.pttl(LEASE) > 1000
    storage.close()


def test_others_are_not_kept_waiting_by_a_transaction_on_another_owner(server, now) -> None:
    storage = open_redis(server.url, timeout=0.05)
    with storage.transaction("ann"), ThreadPoolExecutor(1) as pool:
        storage.set("ann", "k", small(b""), now())
        pool.submit(storage.set, "bob", "k", small(b""), now()).result(30)
    assert storage.owners("", now()) == ["ann", "bob"]
    storage.close()


def test_a_part_that_failed_leaves_nothing_on_the_server(storage, client, now) -> None:
    storage.set("ann", "k", small(b"old"), now())
    with storage.transaction("ann"):
        with suppress(ZeroDivisionError), storage.transaction("ann"):
            storage.set("ann", "k", small(b"new"), now())
            raise ZeroDivisionError
        assert sorted(client.keys("*")) == [HASH.encode(), LEASE.encode()]


def test_what_is_written_to_the_new_owner_of_a_move_is_undone_with_it(storage, client, now) -> None:
    storage.set("ann", "k", small(b"old"), now())
    undone: list[str] = []
    with suppress(ZeroDivisionError), storage.transaction("ann"):
        storage.move("ann", "bob", lambda key, payload: payload, now())
        storage.on_rollback(lambda: undone.append("all"))
        storage.set("bob", "more", small(b"1"), now())
        assert storage.keys("bob", now()) == ["k", "more"]
        raise ZeroDivisionError
    assert undone == ["all"]
    assert client.keys("*") == [HASH.encode()]


# Opening


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:x",
        "redis://127.0.0.1/0?nonsense=1",
        "redis://127.0.0.1?prefix=a{b}",
        "unix://",
        "redis+sentinel://127.0.0.1:1",
        "redis+sentinel:///service",
        "redis+cluster://127.0.0.1:1/5",
        "redis+sentinel://127.0.0.1:1/service?ssl_certfile=1",
        "rediss+sentinel://127.0.0.1:1/service?ssl_nonsense=1",
        "redis+cluster://127.0.0.1:1?nonsense=1",
        "rediss+cluster://127.0.0.1:1?ssl_nonsense=1",
        "redis://127.0.0.1/zero",
        "redis://127.0.0.1?decode_responses=True",
        "redis://127.0.0.1?encoding_errors=ignore",
        "redis+sentinel://127.0.0.1:1/service?protocol=3",
        "redis+cluster://127.0.0.1:1?socket_timeout=1",
        "unix:///redis.sock?retry_on_timeout=yes",
        "redis+other://127.0.0.1",
        "memcached://127.0.0.1",
    ],
)
def test_a_url_of_no_known_form_is_refused_and_its_password_is_not_told(url) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_redis(url.replace("//", "//user:secret@", 1))
    assert "USER_STORE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_all_nodes_of_a_cluster_together_have_the_time_of_one_to_connect(monkeypatch) -> None:
    monkeypatch.setattr("flask_dash_store.storage.redis.url.RedisCluster", lambda **options: options)
    options = parse("redis+cluster://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", "p", 6.0).connect()
    assert (options["socket_connect_timeout"], options["socket_timeout"]) == (2.0, 6.0)


def test_sentinels_are_asked_over_tls_with_the_same_certificates_as_the_master() -> None:
    options = {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/cert.pem", "ssl_keyfile": "/key.pem"}
    url = f"rediss+sentinel://127.0.0.1:1/main?{urlencode(options)}"
    pool = parse(url, "p", 1.0).connect().connection_pool
    (sentinel,) = pool.sentinel_manager.sentinels
    for made in (pool, sentinel.connection_pool):
        assert options.items() <= made.connection_kwargs.items()


@pytest.mark.parametrize("scheme", ["unix", "redis+unix", "valkey+unix"])
def test_a_socket_and_a_prefix_can_stand_in_the_url(server, client, now, scheme) -> None:
    storage = open_redis(f"{scheme}://{server.socket}?db=1&prefix=app.")
    storage.set("ann", "k", small(b"v"), now())
    storage.close()
    with redis.Redis(unix_socket_path=str(server.socket), db=1) as other:
        assert other.keys() == [b"app.{ann}"]


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_password_lets_in_and_a_wrong_one_is_an_error_at_once_that_does_not_tell_it(folder, now, scheme) -> None:
    port = Port()
    with closing(port), RedisServer(folder, port=port.number) as server:
        with server.client() as client:
            client.config_set("requirepass", "open sesame")
        storage = open_redis(f"{scheme}://:open%20sesame@127.0.0.1:{port.number}/0")
        storage.set("ann", "k", small(b"v"), now())
        storage.close()
        with pytest.raises(StorageError) as caught:
            open_redis(f"{scheme}://:closed%20sesame@127.0.0.1:{port.number}/0")
        assert "sesame" not in str(caught.value)


def test_without_redis_py_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['redis'] = None; import flask_dash_store.storage.redis"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'flask_dash_store[redis]'" in ended.stderr


def test_the_package_does_not_import_redis_py_by_itself() -> None:
    code = "import sys, flask_dash_store; assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
