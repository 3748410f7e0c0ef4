"""What the Redis storage promises beyond the contract: its round trips, what the server expires, and its keys."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress

import pytest
import redis
from backends import KEEP_ENDED, TTL, digest, items, large, owner, read, small
from servers_redis import open_redis

from flask_dash_store.errors import QuotaExceeded, SessionEnded, StorageCorrupt, StorageError, ValueTooLarge
from flask_dash_store.expiry import Access, ExpiryPolicy
from flask_dash_store.storage.base import Removed, Storage
from flask_dash_store.storage.redis.scripts import GAPS
from flask_dash_store.storage.redis.server import Server

MARGIN = 61.0
ANN, BOB, EVE = owner("s.ann"), owner("s.bob"), owner("s.eve")
NEW_ANN = owner("s.ann", "new id")
USER = digest("a user")
RECORD = "user_store:{s.ann}"
LEASE, SESSION, EXPIRING = (f"{RECORD}:{name}" for name in ("lease", "session", "expiring"))


def buffers_of_ann(client: redis.Redis) -> list[bytes]:
    return client.keys(f"{RECORD}:b:*")


# Round trips


def transact(storage: Storage, access: Access) -> None:
    with storage.transaction(ANN):
        stored = storage.get(ANN, "k", access)
        assert stored is not None
        storage.set(ANN, "k", stored, access, "keep")


TRIPS: dict[str, tuple[int, Callable[[Storage, Access], object]]] = {
    "get": (1, lambda storage, access: storage.get(ANN, "k", access)),
    "get in vain": (1, lambda storage, access: storage.get(ANN, "other", access)),
    "get of an owner without values": (2, lambda storage, access: storage.get(BOB, "k", access)),
    "get a large value": (2, lambda storage, access: storage.get(ANN, "large", access)),
    "has": (1, lambda storage, access: storage.has(ANN, "k", access)),
    "keys": (1, lambda storage, access: storage.keys(ANN, access)),
    "items with a large value": (2, lambda storage, access: storage.items(ANN, access)),
    "stat": (1, lambda storage, access: storage.stat(ANN, access)),
    "set": (1, lambda storage, access: storage.set(ANN, "k", small(b"new"), access)),
    "set a large value": (1, lambda storage, access: storage.set(ANN, "k", large(b"new"), access)),
    "set of a new owner": (1, lambda storage, access: storage.set(BOB, "k", small(b"new"), access)),
    "set_all": (1, lambda storage, access: storage.set_all(ANN, [(f"{n}", large(b"")) for n in range(3)], access)),
    "expire": (1, lambda storage, access: storage.expire(ANN, "k", access.now + 1, access)),
    "delete": (1, lambda storage, access: storage.delete(ANN, "k", access)),
    "clear": (1, lambda storage, access: storage.clear(ANN, access)),
    "renew": (1, lambda storage, access: storage.renew(ANN, digest("new"), access)),
    "renew with a user": (2, lambda storage, access: storage.renew(ANN, digest("new"), access, USER)),
    "end": (1, lambda storage, access: storage.end(ANN, access)),
    "read and write in a transaction": (4, transact),
}


@pytest.mark.parametrize("name", TRIPS)
def test_a_call_is_as_few_round_trips_as_it_can(storage, client, now, name) -> None:
    def reads() -> int:
        return client.info("stats")["total_reads_processed"]

    trips, call = TRIPS[name]
    storage.set(ANN, "large", large(b"v"), now())
    for _ in range(2):  # The second time, the server knows the script.
        client.flushdb()
        storage.set(ANN, "large", large(b"v"), now())
        storage.set(ANN, "k", small(b"old"), now())
        before = reads()
        call(storage, now())
        made = reads() - before - 1
    assert made == trips


def test_a_read_that_touches_is_two_round_trips_and_the_next_one(storage, client, clock, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    storage.get(ANN, "k", now()._replace(touch_threshold=-1.0))  # The server knows the script after that.
    before = client.info("stats")["total_reads_processed"]
    clock.step(TTL / 2)
    storage.get(ANN, "k", now())
    storage.get(ANN, "k", now())
    assert client.info("stats")["total_reads_processed"] - before - 1 == 3


def test_set_all_of_more_than_one_batch_is_one_transaction(storage, now) -> None:
    with suppress(ZeroDivisionError):
        storage.set_all(ANN, ((f"{n}", small(b"v")) if n < 2500 else 1 // 0 for n in range(2501)), now())
    assert storage.keys(ANN, now()) == []
    storage.set_all(ANN, ((f"{n}", small(b"v")) for n in range(2500)), now())
    assert storage.stat(ANN, now()).keys == 2500


# What costs the same however many keys there are


def commands_called(client: redis.Redis) -> int:
    return sum(each["calls"] for name, each in client.info("commandstats").items() if name not in COMMANDS_OF_THE_TEST)


COMMANDS_OF_THE_TEST = {"cmdstat_info", "cmdstat_config"}


@pytest.mark.parametrize("name", ["stat", "set", "delete", "renew", "end", "clear", "read and write in a transaction"])
def test_a_call_asks_the_server_for_as_much_with_many_keys_as_with_few(storage, client, clock, now, name) -> None:
    call = TRIPS[name][1]
    asked = []
    for count in (10, 3000):
        client.flushdb()
        storage.set(ANN, "k", small(b"v"), now())
        storage.set(ANN, "expires", small(b"v"), now(), clock() + 50)
        storage.set_all(ANN, ((f"{n}", small(b"v")) for n in range(count)), now())
        call(storage, now())
        client.flushdb()
        storage.set(ANN, "k", small(b"v"), now())
        storage.set_all(ANN, ((f"{n}", small(b"v")) for n in range(count)), now())
        client.config_resetstat()
        call(storage, now())
        asked.append(commands_called(client))
    assert asked[0] == asked[1]


# What the server does by itself


@pytest.mark.parametrize("call", ["set", "get"])
def test_the_server_removes_an_owner_a_little_after_it_has_expired(storage, client, clock, now, call) -> None:
    storage.set(ANN, "k", large(b"v"), now())
    storage.set(ANN, "expires", small(b"v"), now(), clock() + TTL)
    (buffers,) = buffers_of_ann(client)
    keys = [RECORD, EXPIRING, f"{RECORD}:buffers", buffers]
    assert sorted(client.keys()) == sorted(key.encode() if isinstance(key, str) else key for key in keys)
    assert all(TTL <= client.pttl(key) / 1000 <= TTL + MARGIN for key in keys)
    clock.step(TTL / 2)
    for key in keys:
        client.pexpire(key, 10_000)
    storage.get(ANN, "k", now()) if call == "get" else storage.set(ANN, "other", small(b"v"), now())
    assert all(TTL <= client.pttl(key) / 1000 <= TTL + MARGIN for key in keys)


def test_the_server_keeps_what_has_no_expiry(storage, client, clock, now) -> None:
    storage.set(ANN, "k", large(b"v"), now())
    storage.set(ANN, "k", large(b"v"), ExpiryPolicy(None, clock).access())
    assert {client.pttl(key) for key in client.scan_iter()} == {-1}


@pytest.mark.parametrize("ending", ["renew", "end"])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_dead_id_is_remembered_for_keep_ended_and_no_longer(storage, client, now, in_transaction, ending) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    with storage.transaction(ANN) if in_transaction else nullcontext():
        storage.end(ANN, now()) if ending == "end" else storage.renew(ANN, NEW_ANN.session, now())
    assert KEEP_ENDED - MARGIN <= client.pttl(SESSION) / 1000 <= KEEP_ENDED
    client.delete(RECORD)  # as the server does when the values have expired
    for call in (storage.get, storage.delete):
        with pytest.raises(SessionEnded):
            call(ANN, "k", now())
    client.delete(SESSION)
    assert storage.get(ANN, "k", now()) is None


def test_without_an_end_to_it_a_dead_id_is_remembered_for_ever(server, client, now) -> None:
    storage = open_redis(server.url, keep_ended=float("inf"))
    storage.renew(ANN, NEW_ANN.session, now(), USER)
    storage.end(BOB, now())
    assert [client.pttl(key) for key in (SESSION, "user_store:{s.bob}:session")] == [-1, -1]
    storage.close()


def test_a_key_with_an_expiry_of_its_own_is_removed_by_later_writes(storage, client, clock, now) -> None:
    for n in range(3):
        storage.set(ANN, f"k{n}", large(b"v"), now(), clock() + 5)
    storage.set(ANN, "lifted", large(b"v"), now(), clock() + 5)
    storage.expire(ANN, "lifted", None, now())
    storage.set(ANN, "later", large(b"v"), now(), clock() + 5)
    storage.expire(ANN, "later", clock() + 50, now())
    clock.step(5)
    assert storage.keys(ANN, now()) == ["lifted", "later"]
    storage.set(ANN, "new", small(b"v"), now())
    assert len(buffers_of_ann(client)) == 2
    assert client.zrange(EXPIRING, 0, -1) == [b"later"]
    assert [client.hexists(RECORD, f"i:{key}") for key in ("k0", "lifted", "later")] == [False, True, True]


def test_an_expiry_that_is_rolled_back_does_not_keep_a_key_in_the_quota(server, clock, now) -> None:
    storage = open_redis(server.url, max_bytes=1000)
    storage.set(ANN, "k", small(b"1" * 800), now(), clock() + 5)
    with suppress(ZeroDivisionError), storage.transaction(ANN):
        storage.expire(ANN, "k", clock() + 500, now())
        storage.set(ANN, "other", small(b""), now())
        raise ZeroDivisionError
    clock.step(5)
    assert storage.stat(ANN, now()).keys == 0
    with storage.transaction(ANN):
        storage.set(ANN, "large", small(b"2" * 900), now())
        with pytest.raises(QuotaExceeded, match="905 are in use"):
            storage.set(ANN, "more", small(b"2" * 900), now())
    assert items(storage, ANN, now()) == [("large", b"2" * 900)]
    storage.close()


def test_without_wait_maintenance_leaves_all_to_the_server(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    storage.set(BOB, "k", small(b"v"), now(), clock() + 1)
    clock.step(TTL)
    assert storage.maintain(clock(), clock()) == Removed(0, 0)
    assert storage.maintain(clock(), clock(), wait=True) == Removed(2, 0)


def test_what_the_server_names_twice_counts_once(storage, client, clock, now, monkeypatch) -> None:
    for each in [ANN, BOB]:
        storage.set(each, "k", small(b"v"), now())
    client.hset("user_store:{s.eve}", "expires", "rubbish")
    scan = Server.scan
    monkeypatch.setattr(Server, "scan", lambda *args: (page for page in scan(*args) for _ in range(2)))
    assert storage.owners("", now()) == ["s.ann", "s.bob"]
    assert sorted(storage.all_owners()) == ["s.ann", "s.bob", "s.eve"]
    clock.step(TTL)
    assert storage.maintain(clock(), 0.0, wait=True).owners == 3


# The order of keys


def test_the_ends_are_found_beside_more_deleted_keys_than_a_script_passes_over(storage, now) -> None:
    count = 2 * GAPS + 10
    storage.set_all(ANN, [(str(n), small(b"")) for n in range(count)], now())
    for n in range(1, count - 1):
        storage.delete(ANN, str(n), now())
    ends = ["0", str(count - 1)]
    assert storage.keys(ANN, now(), 2) == storage.keys(ANN, now(), 2, newest_first=True)[::-1] == ends
    storage.delete(ANN, ends[1], now())
    assert storage.keys(ANN, now(), 1, newest_first=True) == ["0"]
    storage.set(ANN, "new", small(b""), now())
    assert storage.keys(ANN, now(), 1, newest_first=True) == ["new"]
    storage.delete(ANN, "0", now())
    assert storage.keys(ANN, now(), 1) == ["new"]


def test_the_order_of_a_record_without_positions_is_that_of_its_headers(storage, client, now) -> None:
    storage.set_all(ANN, [(key, small(b"")) for key in "cab"], now())
    client.hdel(RECORD, "p:1", "p:2", "p:3")
    assert storage.keys(ANN, now(), 1) == ["c"]
    assert storage.keys(ANN, now(), 1, newest_first=True) == ["b"]
    storage.delete(ANN, "a", now())
    assert storage.keys(ANN, now(), 2) == ["c", "b"]


# Buffers


@pytest.mark.parametrize("in_transaction", [False, True])
def test_buffers_are_deleted_with_their_value(storage, client, now, in_transaction) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.set(ANN, "k", small(b"new"), now()),
        lambda: storage.delete(ANN, "k", now()),
        lambda: storage.clear(ANN, now()),
        lambda: storage.end(ANN, now()),
    ]
    for call in calls:
        storage.set(ANN, "k", large(b"v"), now())
        storage.set(ANN, "k", large(b"v"), now())
        assert len(buffers_of_ann(client)) == 1
        with storage.transaction(ANN) if in_transaction else nullcontext():
            call()
        assert buffers_of_ann(client) == []


def test_neither_a_transaction_nor_a_new_id_touches_buffers(storage, client, now) -> None:
    storage.set(ANN, "k", large(b"1" * 1_000_000), now())
    (buffers,) = buffers_of_ann(client)
    client.config_resetstat()
    with storage.transaction(ANN):
        storage.set(ANN, "other", small(b"v"), now())
        storage.renew(ANN, NEW_ANN.session, now())
    stats = client.info("stats")
    assert stats["total_net_input_bytes"] + stats["total_net_output_bytes"] < 100_000
    assert buffers_of_ann(client) == [buffers]
    assert read(storage.get(NEW_ANN, "k", now())) == b"1" * 1_000_000


def test_what_is_rolled_back_or_refused_leaves_no_buffers(server, client, now) -> None:
    storage = open_redis(server.url, max_bytes=5000)
    storage.set(ANN, "k", large(b"old"), now())
    kept = buffers_of_ann(client)
    with suppress(ZeroDivisionError), storage.transaction(ANN):
        with suppress(ZeroDivisionError), storage.transaction(ANN):
            storage.set(ANN, "k", large(b"new"), now())
            storage.expire(ANN, "k", now().now + 1, now())
            raise ZeroDivisionError
        assert buffers_of_ann(client) == kept
        storage.set(ANN, "k", large(b"new"), now())
        storage.set(ANN, "k", large(b"newer"), now())
        with storage.transaction(ANN):
            storage.set(ANN, "k", large(b"newest"), now())
        assert len(buffers_of_ann(client)) == 2
        raise ZeroDivisionError
    with pytest.raises(QuotaExceeded):
        storage.set(ANN, "large", large(b"1" * 5000), now())
    storage.renew(ANN, NEW_ANN.session, now())
    with pytest.raises(SessionEnded):
        storage.set(ANN, "k", large(b"late"), now())
    assert buffers_of_ann(client) == kept
    assert items(storage, NEW_ANN, now()) == [("k", b"old")]
    storage.close()


def test_buffers_of_a_writer_that_died_expire_by_themselves(storage, client, now) -> None:
    with suppress(StorageError), storage.transaction(ANN):
        storage.set(ANN, "k", large(b"v"), now())
        (buffers,) = buffers_of_ann(client)
        assert 0 < client.pttl(buffers) <= 3_600_000
        client.delete(LEASE)
    storage.set(ANN, "k", large(b"v"), now())
    assert all(0 < client.pttl(key) <= (TTL + MARGIN) * 1000 for key in client.scan_iter())


def test_a_reader_gets_a_value_whole_while_others_replace_it(server, storage, now) -> None:
    storage.set(ANN, "k", large(b"0"), now())
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [storage.set(ANN, "k", large(b"%d" % n), now()) for n in range(500)])
        while not writing.done():
            assert read(storage.get(ANN, "k", now())).isdigit()
            assert items(storage, ANN, now())[0][1].isdigit()
        writing.result()


# All of an owner


def test_damage_costs_one_key(storage, client, now) -> None:
    for key in ["header", "payload", "buffers", "whole"]:
        storage.set(ANN, key, large(b"v"), now())
        if key == "buffers":
            client.delete(*(each for each in buffers_of_ann(client) if each in new_buffers(client, ANN.name, key)))
    client.hset(RECORD, "i:header", "rubbish")
    client.hdel(RECORD, "v:payload")
    problems = sorted(storage.problems(), key=lambda problem: problem.partition("under")[2])
    assert [problem.split("'")[1] for problem in problems] == ["buffers", "header", "payload"]
    assert storage.dump("s.ann").damaged == ("payload", "buffers")
    assert storage.get(ANN, "header", now()) is None
    for key in ["payload", "buffers"]:
        with pytest.raises(StorageCorrupt, match=key):
            storage.get(ANN, key, now())
    for key in ["header", "payload", "buffers"]:
        storage.delete(ANN, key, now())
    client.hset(RECORD, "bytes", "rubbish")
    storage.set(ANN, "header", small(b"v"), now())
    assert items(storage, ANN, now()) == [("whole", b"v"), ("header", b"v")]
    assert storage.stat(ANN, now()).keys == 2


def new_buffers(client: redis.Redis, name: str, key: str) -> list[bytes]:
    header = client.hget(f"user_store:{{{name}}}", f"i:{key}")
    return [f"user_store:{{{name}}}:b:".encode() + header.rpartition(b" ")[2]]


def test_a_key_of_another_kind_is_reported_and_left(storage, client, now) -> None:
    client.set(RECORD, "another program's")
    assert [problem.startswith("s.ann: ") for problem in storage.problems()] == [True]
    for call in (storage.get, storage.delete):
        with pytest.raises(StorageCorrupt, match="WRONGTYPE"):
            call(ANN, "k", now())
    assert client.get(RECORD) == b"another program's"


def test_a_value_beyond_the_servers_limit_is_refused_with_its_name(server, client, now) -> None:
    limit = client.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
    client.config_set("proto-max-bulk-len", 2**20)
    try:
        storage = open_redis(server.url)
        storage.set(ANN, "fits", small(b"1" * 2**20), now())
        for value in (small(b"1" * (2**20 + 1)), large(b"2" * 2**20)):
            with pytest.raises(ValueTooLarge, match=r"1,048,576\. .*proto-max-bulk-len"):
                storage.set(ANN, "k", value, now())
        assert storage.keys(ANN, now()) == ["fits"]
        storage.close()
    finally:
        client.config_set("proto-max-bulk-len", limit)


def test_a_large_value_comes_back_whole(storage, now) -> None:
    storage.set(ANN, "k", large(b"1" * 20_000_000), now())
    assert items(storage, ANN, now()) == [("k", b"1" * 20_000_000)]


@pytest.mark.parametrize("is_rolled_back", [False, True])
def test_an_owner_that_is_loaded_over_itself_keeps_its_buffers(storage, client, now, is_rolled_back) -> None:
    storage.set(ANN, "k", large(b"v"), now())
    dump = storage.dump("s.ann")
    storage.set(ANN, "more", large(b"v"), now())
    with suppress(ZeroDivisionError), storage.transaction(ANN):
        storage.load("s.ann", dump)
        _ = 1 // (not is_rolled_back)
    assert items(storage, ANN, now()) == [("k", b"v"), ("more", b"v")][: 1 + is_rolled_back]
    buffers = buffers_of_ann(client)
    assert len(buffers) == 1 + is_rolled_back
    assert all(client.pttl(key) <= (TTL + MARGIN) * 1000 for key in buffers)


# A user's sessions


def test_the_index_of_a_user_forgets_sessions_that_ended_long_ago_and_expires(storage, client, clock, now) -> None:
    index = f"user_store:user:{USER.hex()}"
    for each in (ANN, BOB):
        storage.renew(each, digest("new id"), now(), USER)
    assert KEEP_ENDED - MARGIN <= client.pttl(index) / 1000 <= KEEP_ENDED
    storage.end(owner("s.bob", "new id"), now())
    assert [info.owner for info in storage.sessions(USER, now())] == [NEW_ANN]
    clock.step(4000)
    assert storage.sessions(USER, now()) == []
    assert client.zrange(index, 0, -1) == []


# Transactions


def test_a_transaction_that_has_lost_its_lease_has_written_nothing_and_says_so(storage, client, now) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    with pytest.raises(StorageError, match="made no call for longer"), storage.transaction(ANN):
        storage.set(ANN, "k", small(b"mine"), now())
        client.delete(LEASE)  # as if it had made no call for too long
        ThreadPoolExecutor(1).submit(storage.set, ANN, "k", small(b"theirs"), now()).result(30)
    assert items(storage, ANN, now()) == [("k", b"theirs")]
    assert client.keys("*") == [RECORD.encode()]


def test_a_transaction_lasts_as_long_as_it_makes_calls(server, client, now) -> None:
    storage = open_redis(server.url, lease=5)
    with storage.transaction(ANN):
        client.pexpire(LEASE, 1000)
        storage.get(ANN, "k", now())
        assert client.pttl(LEASE) > 1000
    storage.close()


def test_others_do_not_wait_for_a_transaction_on_another_owner(server, now) -> None:
    storage = open_redis(server.url, timeout=0.05)
    with storage.transaction(ANN), ThreadPoolExecutor(1) as pool:
        storage.set(ANN, "k", small(b""), now())
        pool.submit(storage.set, BOB, "k", small(b""), now()).result(30)
    assert storage.owners("", now()) == ["s.ann", "s.bob"]
    storage.close()


def test_a_savepoint_that_failed_leaves_nothing_on_the_server(storage, client, now) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    with storage.transaction(ANN):
        with suppress(ZeroDivisionError), storage.transaction(ANN):
            storage.set(ANN, "k", small(b"new"), now())
            raise ZeroDivisionError
        assert sorted(client.keys("*")) == [RECORD.encode(), LEASE.encode()]


@pytest.mark.parametrize("name", ["clear", "end", "renew", "set of values that have expired"])
def test_a_savepoint_that_writes_first_can_hide_all_that_was_there(storage, clock, now, name) -> None:
    storage.set(ANN, "k", large(b"old"), now())
    if name == "set of values that have expired":
        clock.step(TTL)
    with storage.transaction(ANN), storage.transaction(ANN), storage.transaction(ANN):
        if name == "set of values that have expired":
            storage.set(ANN, "new", small(b"new"), now())
        else:
            TRIPS[name][1](storage, now())
    session = digest("new") if name == "renew" else ANN.session
    if name == "end":
        with pytest.raises(SessionEnded):
            storage.keys(ANN, now())
    else:
        kept = {"clear": [], "renew": ["k"]}.get(name, ["new"])
        assert storage.keys(ANN._replace(session=session), now()) == kept


def layers(client: redis.Redis) -> list[bytes]:
    return sorted(key for key in client.keys(f"{RECORD}:*") if key.rpartition(b":")[2].isdigit())


@pytest.mark.parametrize("lost", ["layer", "older layer", "buffers"])
@pytest.mark.parametrize("in_savepoint", [False, True])
def test_a_transaction_of_which_the_server_lost_something_writes_nothing_and_says_so(
    storage, client, now, lost, in_savepoint
) -> None:
    """As after an eviction, or a failover to a replica that lags behind."""
    storage.set(ANN, "k", small(b"old"), now())
    with pytest.raises(StorageError, match="rolled back"), storage.transaction(ANN):
        storage.set(ANN, "k", small(b"new"), now())
        with storage.transaction(ANN) if in_savepoint else nullcontext():
            storage.set(ANN, "more", small(b"new"), now())
            layer = layers(client)[-1]
            before = client.dump(layer)
            storage.set(ANN, "large", large(b"new"), now())
            if lost == "buffers":
                client.delete(*buffers_of_ann(client))
            else:
                client.delete(layer)
            if lost == "older layer":
                client.restore(layer, 0, before)
    assert items(storage, ANN, now()) == [("k", b"old")]
    left = set(client.keys("*")) - {RECORD.encode()}
    assert left <= set(buffers_of_ann(client))
    assert all(client.pttl(key) > 0 for key in left)


def test_a_read_in_a_transaction_of_which_the_server_lost_something_says_so(storage, client, now) -> None:
    with suppress(StorageError), storage.transaction(ANN):
        storage.set(ANN, "k", small(b"new"), now())
        client.delete(*layers(client))
        with pytest.raises(StorageError, match="rolled back"):
            storage.get(ANN, "k", now())
    assert storage.keys(ANN, now()) == []
