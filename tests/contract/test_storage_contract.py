"""Every storage keeps what flask_dash_store/storage/base.py promises, sentence by sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from contextvars import Context
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from backends import BACKENDS, SHARED, Child, Factory, digest, items, large, open_url, owner, read, size_of, small
from clocks import HandClock

from flask_dash_store.errors import QuotaExceeded, SessionEnded, StorageBusy, StorageClosed, StorageError, TooManyKeys
from flask_dash_store.expiry import Access, ExpiryPolicy
from flask_dash_store.owner import Owner
from flask_dash_store.storage import Storage
from flask_dash_store.storage.base import ENDED, ExpiryLimit, Removed, SessionInfo, Stat, ValueInfo
from flask_dash_store.storage.transaction import Transaction, current_transaction, on_rollback

Now = Callable[..., Access]

START = HandClock().now
TTL = 1000.0
MAX_BYTES = 20_000

ANN, BOB, EVE = owner("s.ann"), owner("s.bob"), owner("s.eve")
NEW_ANN = owner("s.ann", "new id")
USER, OTHER_USER = digest("a user"), digest("another user")

# Those in SQLite without a file have one connection, which readers share with the writer.
READ_BESIDE_WRITERS = SHARED | {"memory": BACKENDS["memory"]}

# The methods, with what they are given between the owner and the access.
READS: dict[str, tuple[Any, ...]] = {"get": ("k",), "has": ("k",), "keys": (), "items": ()}
WRITES: dict[str, tuple[Any, ...]] = {
    "set": ("k", (b"new", None)),
    "set_all": ([("k", (b"new", None)), ("l", (b"new", None))],),
    "replace": ("k", b"new", (b"newer", None)),
    "expire": ("k", START + 1),
    "delete": ("k",),
    "clear": (),
}
ENDS: dict[str, tuple[Any, ...]] = {"renew": (NEW_ANN.session,), "end": ()}
CALLS = READS | WRITES | ENDS | {"stat": (), "describe": (), "versions": (["k"],)}

NOTHING = {"get": None, "has": False, "keys": [], "items": [], "stat": Stat(None, 0, 0), "describe": []}
NOTHING |= {"versions": {}, "replace": False, "expire": False, "delete": False, "clear": None}
ABSENCES: dict[str, tuple[tuple[str, ...], float]] = {
    "never written": ((), 0),
    "deleted": (("set", "delete"), 0),
    "cleared": (("set", "clear"), 0),
    "its time is over": (("set", "expire"), 1),
    "its owner's time is over": (("set",), TTL),
}
OWNERS = [owner(name) for name in ("a", "a0", "a.", "a-", "a!", "a%", "a_", "aa", "A", "b", "a%2F", "u.", "u..", "s.a")]


def call(storage: Storage, name: str, access: Access, owner: Owner = ANN) -> Any:
    return getattr(storage, name)(owner, *CALLS[name], access=access)


def maintain(storage: Storage, now: float, ended_before: float, limit: ExpiryLimit | None = None) -> Removed:
    """All that there is to do. Returns how much was removed."""
    owners = keys = 0
    while True:
        removed = storage.maintain(now, ended_before, limit, wait=True)
        owners, keys = owners + removed.owners, keys + removed.keys
        if not removed.has_more:
            return Removed(owners, keys)


def expires(storage: Storage, owner: Owner, access: Access) -> float | None:
    return storage.stat(owner, access).expires


def nbytes(storage: Storage, owner: Owner, access: Access) -> int:
    return storage.stat(owner, access).nbytes


@pytest.fixture
def now(clock: HandClock) -> Now:
    """Makes the present access."""
    return ExpiryPolicy(TTL, clock).access


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def factory(request: pytest.FixtureRequest) -> Factory:
    return request.param


@pytest.fixture
def storage(factory: Factory, tmp_path: Path) -> Iterator[Any]:
    storage = factory(tmp_path, max_bytes=MAX_BYTES, timeout=30)
    yield storage
    storage.close()


@pytest.fixture
def hasty(factory: Factory, tmp_path: Path, now: Now) -> Iterator[Any]:
    """A storage with a short timeout, and a value."""
    storage = factory(tmp_path, timeout=0.05)
    storage.set(ANN, "k", small(b"old"), now())
    yield storage
    storage.close()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


# What is absent


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("absence", ABSENCES)
def test_what_is_absent_is_not_an_error(storage, clock, now, absence, name) -> None:
    calls, elapsed = ABSENCES[absence]
    for each in calls:
        call(storage, each, now())
    clock.step(elapsed)
    assert call(storage, name, now()) == NOTHING[name]
    assert storage.owners("s.ann", now()) == []


@pytest.mark.parametrize("absence", ABSENCES)
def test_what_is_absent_is_as_if_it_had_never_been(storage, clock, now, absence) -> None:
    calls, elapsed = ABSENCES[absence]
    for each in calls:
        call(storage, each, now())
    clock.step(elapsed)
    storage.set(ANN, "first", small(b"1"), now())
    storage.set(ANN, "k", small(b"again"), now(), "keep")
    assert items(storage, ANN, now()) == [("first", b"1"), ("k", b"again")]
    nbytes = size_of(storage, {"first": small(b"1"), "k": small(b"again")}, now())
    assert storage.stat(ANN, now())[1:] == (nbytes, 2, None)


# Values


@pytest.mark.parametrize("key", ["", "/", "a/b", "%", "_", "k", "K", "🦆" * 512, "';--", "\n"])
def test_any_text_is_a_key(storage, now, key) -> None:
    storage.set(ANN, key, small(b"v"), now())
    storage.set(ANN, "other", small(b""), now())
    assert (storage.get(ANN, key, now()), storage.has(ANN, key, now())) == (small(b"v"), True)
    assert items(storage, ANN, now()) == [(key, b"v"), ("other", b"")]
    assert nbytes(storage, ANN, now()) >= len(key.encode()) + len(b"v") + len("other")
    assert storage.delete(ANN, key, now()) is True
    assert storage.keys(ANN, now()) == ["other"]


@pytest.mark.parametrize("make", [small, large])
@pytest.mark.parametrize("before", [small, large])
def test_a_value_of_any_bytes_replaces_another_with_its_buffers(storage, now, before, make) -> None:
    for payload in (b"", bytes(range(64)), b"\0\xff"):
        storage.set(ANN, "k", before(b"old"), now())
        storage.set(ANN, "k", make(payload), now())
        assert read(storage.get(ANN, "k", now())) == payload
        assert items(storage, ANN, now()) == [("k", payload)]
        assert nbytes(storage, ANN, now()) == size_of(storage, {"k": make(payload)}, now())


def test_the_caller_may_change_the_buffers_that_were_read(storage, now) -> None:
    storage.set(ANN, "k", large(b"v"), now())
    for _ in range(2):
        _, buffers = storage.get(ANN, "k", now())
        assert bytes(buffers.views[0][:1]) == b"v"
        buffers.views[0][:1] = b"x"


def test_keys_are_in_order_of_insertion_and_an_overwrite_keeps_a_key_where_it_is(storage, now) -> None:
    for key in ["z", "a", "m", "z"]:
        storage.set(ANN, key, small(b""), now())
    storage.delete(ANN, "a", now())
    storage.set_all(ANN, [("a", small(b"")), ("m", small(b""))], now())
    storage.renew(ANN, NEW_ANN.session, now())
    assert storage.keys(NEW_ANN, now()) == [key for key, _ in items(storage, NEW_ANN, now())] == ["z", "m", "a"]
    assert storage.stat(NEW_ANN, now()).keys == 3


def check_ends(storage: Storage, now: Now, expected: str) -> None:
    """What is at the ends of an owner's keys, which are these in all."""
    keys = list(expected)
    assert (storage.keys(ANN, now()), storage.keys(ANN, now(), newest_first=True)) == (keys, keys[::-1])
    for limit in (1, 2, 100):
        assert storage.keys(ANN, now(), limit) == keys[:limit]
        assert storage.keys(ANN, now(), limit, newest_first=True) == keys[::-1][:limit]
    assert storage.keys(ANN, now(), 0) == []


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_few_keys_are_the_first_or_the_last_of_those_that_are_there(storage, clock, now, in_transaction) -> None:
    with storage.transaction(ANN) if in_transaction else nullcontext():
        check_ends(storage, now, "")
        for key in "abcdefgh":
            storage.set(ANN, key, small(b""), now(), clock() + 1 if key in "abh" else None)
        storage.set(ANN, "c", large(b"overwritten"), now())
        check_ends(storage, now, "abcdefgh")
        clock.step(1)
        check_ends(storage, now, "cdefg")
        for key in "cge":
            storage.delete(ANN, key, now())
        check_ends(storage, now, "df")
        storage.set_all(ANN, [(key, small(b"")) for key in "dcab"], now())
        check_ends(storage, now, "dfcab")
        storage.clear(ANN, now())
        check_ends(storage, now, "")
        storage.set(ANN, "z", small(b""), now())
        check_ends(storage, now, "z")


@pytest.mark.parametrize("change", ["delete the ends", "clear", "add"])
def test_the_ends_are_as_before_when_what_has_changed_them_is_rolled_back(storage, now, change) -> None:
    storage.set_all(ANN, [(key, small(b"")) for key in "abc"], now())
    with storage.transaction(ANN):
        storage.set(ANN, "d", small(b""), now())
        storage.delete(ANN, "a", now())
        with suppress(ZeroDivisionError), storage.transaction(ANN):
            if change == "delete the ends":
                storage.delete(ANN, "b", now())
                storage.delete(ANN, "d", now())
                check_ends(storage, now, "c")
            elif change == "clear":
                storage.clear(ANN, now())
                storage.set(ANN, "x", small(b""), now())
                check_ends(storage, now, "x")
            else:
                storage.set(ANN, "a", small(b""), now())
                check_ends(storage, now, "bcda")
            raise ZeroDivisionError
        check_ends(storage, now, "bcd")
        storage.set(ANN, "e", small(b""), now())
    check_ends(storage, now, "bcde")


@pytest.mark.parametrize(
    ("name", "owner"),
    [(name, each) for each in OWNERS for name in WRITES | ENDS if name in WRITES or each.session],
    ids=lambda value: value.name if isinstance(value, Owner) else value,
)
def test_no_owner_meets_another_whatever_their_names_are(storage, now, name, owner) -> None:
    for each in OWNERS:
        storage.set(each, "k", small(each.name.encode()), now())
    call(storage, name, now(), owner)
    others = [each for each in OWNERS if each != owner]
    assert [items(storage, each, now()) for each in others] == [[("k", each.name.encode())] for each in others]
    sizes = [size_of(storage, {"k": small(each.name.encode())}, now()) for each in others]
    assert [nbytes(storage, each, now()) for each in others] == sizes


@pytest.mark.parametrize("prefix", ["", "a", "a%", "A", "u.", "zz"])
def test_owners_are_those_with_values_whose_names_begin_so_in_order(storage, clock, now, prefix) -> None:
    for each in reversed(OWNERS):
        storage.set(each, "k", small(b""), now())
    storage.end(owner("a_"), now())
    storage.renew(owner("a-"), digest("new id"), now())
    storage.renew(owner("aaa"), digest("new id"), now())
    storage.set(owner("aaaa"), "k", small(b""), now(), clock() + 1)
    clock.step(1)
    names = [each.name for each in OWNERS if each.name.startswith(prefix) and each.name != "a_"]
    assert storage.owners(prefix, now()) == sorted(names)
    clock.step(TTL)
    assert storage.owners(prefix, now()) == []


# Limits


@pytest.mark.parametrize("make", [small, large])
def test_an_owner_may_take_all_of_the_quota_and_not_a_byte_more(factory, storage, tmp_path, now, make) -> None:
    fits = {"é": small(b"1" * 1000), "k": make(b"2")}
    quota = size_of(storage, fits, now())
    for limit in (quota, quota - 1):
        limited = factory(tmp_path / str(limit), max_bytes=limit)
        limited.set(BOB, "k", small(b""), now())
        limited.set(ANN, "é", small(b"1" * 1000), now())
        with suppress(QuotaExceeded) if limit < quota else nullcontext():
            limited.set(ANN, "k", make(b"2"), now())
        assert limited.keys(ANN, now()) == (["é", "k"] if limit == quota else ["é"])
        with pytest.raises(QuotaExceeded) as caught:
            limited.set(ANN, "é", small(b"3" * 3000), now())
        assert (caught.value.key, caught.value.limit) == ("é", limit)
        assert caught.value.used == nbytes(limited, ANN, now())
        assert limited.get(ANN, "é", now()) == small(b"1" * 1000)
        limited.delete(ANN, "é", now())
        limited.set(ANN, "k", make(b"2"), now())
        limited.close()


def test_an_owner_may_have_as_many_keys_as_it_may_and_not_one_more(factory, tmp_path, clock, now) -> None:
    limited = factory(tmp_path / "limited", max_keys=2)
    limited.set(ANN, "stale", small(b"1"), now(), clock() + 1)
    limited.set(ANN, "k", small(b"1"), now())
    with pytest.raises(TooManyKeys, match="'new'") as caught:
        limited.set(ANN, "new", small(b"2"), now())
    assert (caught.value.key, caught.value.limit, caught.value.used) == ("new", 2, 2)
    limited.set(ANN, "k", large(b"2"), now())
    clock.step(1)
    limited.set(ANN, "new", small(b"2"), now())
    with pytest.raises(TooManyKeys), limited.transaction(ANN):
        limited.delete(ANN, "k", now())
        limited.set(ANN, "last", small(b"3"), now())
        limited.set(ANN, "more", small(b"3"), now())
    assert items(limited, ANN, now()) == [("k", b"2"), ("new", b"2")]
    limited.close()


@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_over_a_limit_leaves_nothing_behind(storage, clock, now, is_first) -> None:
    if not is_first:
        storage.set(ANN, "k", small(b"old"), now())
    with pytest.raises(QuotaExceeded):
        storage.set(ANN, "k", large(b"2" * MAX_BYTES), now())
    assert items(storage, ANN, now()) == ([] if is_first else [("k", b"old")])
    assert list(storage.all_owners()) == ([] if is_first else ["s.ann"])


@pytest.mark.parametrize("key", ["stale", "new"])
def test_expired_keys_take_nothing_of_the_quota(storage, clock, now, key) -> None:
    for stale in ["stale", "other"]:
        storage.set(ANN, stale, small(b"1" * 9000), now(), clock() + 1)
    clock.step(1)
    storage.set(ANN, key, small(b"2" * 18_000), now())
    assert items(storage, ANN, now()) == [(key, b"2" * 18_000)]
    assert nbytes(storage, ANN, now()) == size_of(storage, {key: small(b"2" * 18_000)}, now())


def test_stat_counts_no_expired_key(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"1"), now())
    storage.set(ANN, "stale", large(b"2"), now(), clock() + 1)
    clock.step(1)
    assert storage.stat(ANN, now()) == Stat(START + TTL, size_of(storage, {"k": small(b"1")}, now()), 1)


# Several values at once


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("make", [small, large])
@pytest.mark.parametrize("before", [small, large])
def test_a_value_is_replaced_if_it_is_still_what_was_read(storage, now, before, make, in_transaction) -> None:
    storage.set(ANN, "k", before(b"read"), now())
    storage.set(ANN, "l", small(b"other"), now())
    with storage.transaction(ANN) if in_transaction else nullcontext():
        assert storage.replace(ANN, "k", b"read", make(b"new, and longer"), now())
        assert not storage.replace(ANN, "k", b"read", make(b"late"), now())
        assert not storage.replace(ANN, "none", b"read", make(b"late"), now())
    new = {"k": make(b"new, and longer"), "l": small(b"other")}
    assert items(storage, ANN, now()) == [("k", b"new, and longer"), ("l", b"other")]
    assert nbytes(storage, ANN, now()) == size_of(storage, new, now())


def test_a_value_that_is_replaced_keeps_the_expiry_of_its_key(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"read"), now(), START + 10)
    assert storage.replace(ANN, "k", b"read", small(b"new"), now())
    clock.step(10)
    assert not storage.replace(ANN, "k", b"new", small(b"late"), now())
    assert not storage.has(ANN, "k", now())


def test_what_replaces_a_value_counts_against_the_quota(storage, now) -> None:
    storage.set(ANN, "k", small(b"read"), now())
    with pytest.raises(QuotaExceeded):
        storage.replace(ANN, "k", b"read", small(bytes(MAX_BYTES)), now())
    fits = MAX_BYTES - nbytes(storage, ANN, now()) + len(b"read")
    assert storage.replace(ANN, "k", b"read", small(bytes(fits)), now())
    assert nbytes(storage, ANN, now()) == MAX_BYTES


def test_of_those_who_replace_what_all_have_read_one_does(storage, now) -> None:
    storage.set(ANN, "k", small(b"read"), now())
    start = Barrier(4)

    def replace(number: int) -> bool:
        start.wait()
        return storage.replace(ANN, "k", b"read", small(b"%d" % number), now())

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(replace, range(4)))
    assert outcomes.count(True) == 1
    assert items(storage, ANN, now()) == [("k", b"%d" % outcomes.index(True))]


def test_set_all_stores_every_value_from_any_iterable(storage, now) -> None:
    storage.set_all(ANN, iter({"a": small(b"1"), "b": large(b"2")}.items()), now())
    storage.set_all(ANN, [], now())
    assert items(storage, ANN, now()) == [("a", b"1"), ("b", b"2")]
    nbytes = size_of(storage, {"a": small(b"1"), "b": large(b"2")}, now())
    assert storage.stat(ANN, now()) == Stat(START + TTL, nbytes, 2)


def test_set_all_lifts_the_expiry_that_a_key_had(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"1"), now(), clock() + 1)
    storage.set_all(ANN, [("k", small(b"2"))], now())
    clock.step(1)
    assert items(storage, ANN, now()) == [("k", b"2")]


@pytest.mark.parametrize("in_transaction", [False, True])
def test_set_all_stores_nothing_when_one_value_is_over_the_quota(storage, now, in_transaction) -> None:
    storage.set(ANN, "a", large(b"old"), now())
    with storage.transaction(ANN) if in_transaction else nullcontext():
        with pytest.raises(QuotaExceeded):
            storage.set_all(ANN, [("a", small(b"1")), ("b", large(b"2")), ("c", small(b"3" * MAX_BYTES))], now())
        assert items(storage, ANN, now()) == [("a", b"old")]
    assert items(storage, ANN, now()) == [("a", b"old")]
    assert nbytes(storage, ANN, now()) == size_of(storage, {"a": large(b"old")}, now())


# Expiry


@pytest.mark.parametrize(
    ("elapsed", "counts", "is_moved"),
    [(TTL / 20, True, False), (TTL / 20 + 1, True, True), (TTL - 1, True, True), (TTL - 1, False, False)],
)
@pytest.mark.parametrize("name", [*READS, *WRITES, "stat"])
def test_a_use_moves_the_expiry_when_a_touch_is_due(storage, clock, now, name, elapsed, counts, is_moved) -> None:
    storage.set(ANN, "k", small(b""), now())
    storage.set(ANN, "other", small(b""), now())
    clock.step(elapsed)
    call(storage, name, now(counts_as_use=counts))
    if name != "clear":
        assert expires(storage, ANN, now()) == (clock() if is_moved and name != "stat" else START) + TTL


@pytest.mark.parametrize("name", ["get", "has", "delete", "expire"])
def test_to_ask_in_vain_for_a_key_is_a_use_too(storage, clock, now, name) -> None:
    storage.set(ANN, "other", small(b""), now())
    clock.step(TTL / 2)
    call(storage, name, now())
    assert expires(storage, ANN, now()) == clock() + TTL


def test_a_clock_stepped_back_brings_the_expiry_back_with_the_next_use(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b""), now())
    clock.step(-10 * TTL)
    assert storage.get(ANN, "k", now()) == small(b"")
    assert expires(storage, ANN, now()) == clock() + TTL


def test_the_first_value_brings_an_expiry_even_when_it_does_not_count_as_use(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b""), now(counts_as_use=False))
    assert expires(storage, ANN, now()) == clock() + TTL


@pytest.mark.parametrize("in_transaction", [False, True])
def test_values_are_described_in_order_unread_and_it_is_no_use(storage, clock, now, in_transaction) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    storage.set(ANN, "\N{EURO SIGN}", large(b"w"), now(), clock() + TTL + 5)
    storage.set(ANN, "short", small(b""), now(), clock() + 1)
    clock.step(TTL / 2)
    with storage.transaction(ANN) if in_transaction else nullcontext():
        if in_transaction:
            storage.set(ANN, "last", small(b"123"), now()._replace(touch_threshold=math.inf))
        described = storage.describe(ANN, now())
        assert expires(storage, ANN, now()) == START + TTL
        assert sum(info.nbytes for info in described) == nbytes(storage, ANN, now())
    assert [(info.key, info.expires, info.is_large) for info in described] == [
        ("k", None, False),
        ("\N{EURO SIGN}", START + TTL + 5, True),
    ] + [("last", None, False)] * in_transaction
    assert described[0] == ValueInfo("k", 2, None, False)
    clock.step(TTL)
    assert storage.describe(ANN, now()) == []


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_version_is_the_end_of_what_is_stored_and_to_ask_for_it_is_no_use(
    storage, clock, now, in_transaction
) -> None:
    storage.set(ANN, "k", small(b"1" * 100 + b"2" * 32), now())
    storage.set(ANN, "\N{EURO SIGN}", large(b"w"), now())
    storage.set(ANN, "short", small(b"v"), now(), clock() + 1)
    storage.set(BOB, "k", small(b"v"), now())
    clock.step(TTL / 2)
    with storage.transaction(ANN) if in_transaction else nullcontext():
        if in_transaction:
            storage.set(ANN, "last", small(b"123"), now()._replace(touch_threshold=math.inf))
        all_versions = storage.versions(ANN, None, now())
        two = storage.versions(ANN, {"k", "missing", "short"}, now())
        assert storage.versions(ANN, [], now()) == {}
        assert expires(storage, ANN, now()) == START + TTL
    assert two == {"k": b"2" * 32}
    others = {"last": b"123"} if in_transaction else {}
    assert all_versions == {"k": b"2" * 32, "\N{EURO SIGN}": large(b"w")[0][-32:]} | others
    storage.set(ANN, "k", small(b"another"), now()._replace(touch_threshold=math.inf))
    assert storage.versions(ANN, ["k"], now()) == {"k": b"another"}
    clock.step(TTL)
    assert storage.versions(ANN, None, now()) == storage.versions(ANN, ["k"], now()) == {}


def test_what_has_expired_and_is_still_there_is_described_at_a_time_before_all_times(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    storage.set(ANN, "l", small(b"v"), now(), clock() + 1)
    clock.step(TTL)
    always = Access(-1.0, math.inf, math.inf)
    assert [info.key for info in storage.describe(ANN, always)] == ["k", "l"]
    storage.end(ANN, now())
    with pytest.raises(SessionEnded):
        storage.describe(ANN, always)


def test_values_without_an_expiry_stay(storage, clock) -> None:
    forever = ExpiryPolicy(None, clock).access
    storage.set(ANN, "k", small(b"v"), forever())
    clock.step(1e9)
    assert (storage.get(ANN, "k", forever()), expires(storage, ANN, forever())) == (small(b"v"), math.inf)


def test_a_set_decides_when_its_key_is_gone_unless_it_keeps_that(storage, clock, now) -> None:
    for key in ["cut", "kept", "lifted"]:
        storage.set(ANN, key, small(b"1"), now(), clock() + 5)
    storage.set(ANN, "lifted", small(b"2"), now())
    storage.set(ANN, "kept", small(b"2"), now(), "keep")
    storage.set(ANN, "new", small(b"2"), now(), "keep")
    clock.step(5)
    assert storage.keys(ANN, now()) == ["lifted", "new"]


def test_expire_sets_when_a_key_is_gone_and_says_whether_there_is_one(storage, clock, now) -> None:
    storage.set(ANN, "cut", small(b""), now())
    storage.set(ANN, "lifted", small(b""), now(), clock() + 5)
    assert storage.expire(ANN, "cut", clock() + 5, now()) is True
    assert storage.expire(ANN, "lifted", None, now()) is True
    assert storage.expire(ANN, "missing", None, now()) is False
    clock.step(5)
    assert storage.keys(ANN, now()) == ["lifted"]


# Session ids


def test_only_the_id_of_the_first_write_opens_the_values(storage, now) -> None:
    assert [storage.get(each, "k", now()) for each in (ANN, NEW_ANN)] == [None, None]
    storage.set(ANN, "k", small(b"v"), now())
    for name in CALLS.keys() - ENDS:
        with pytest.raises(SessionEnded):
            call(storage, name, now(), NEW_ANN)
    assert items(storage, ANN, now()) == [("k", b"v")]


def test_the_values_of_a_user_id_need_no_session(storage, now) -> None:
    storage.set(owner("u.ann"), "k", small(b"v"), now())
    assert (owner("u.ann").session, items(storage, owner("u.ann"), now())) == (None, [("k", b"v")])


def test_a_renewed_session_keeps_its_values_under_the_new_id(storage, clock, now) -> None:
    storage.set(ANN, "stays", small(b"1"), now())
    storage.set(ANN, "goes", large(b"22"), now(), clock() + TTL)
    before = storage.stat(ANN, now())
    clock.step(TTL / 2)
    storage.renew(ANN, NEW_ANN.session, now())
    assert items(storage, NEW_ANN, now()) == [("stays", b"1"), ("goes", b"22")]
    assert storage.stat(NEW_ANN, now()) == before._replace(expires=clock() + TTL)
    clock.step(TTL / 2)
    assert storage.keys(NEW_ANN, now()) == ["stays"]


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("name", [*READS, *WRITES, "stat", "renew"])
@pytest.mark.parametrize("ending", ENDS)
def test_an_id_that_was_renewed_or_ended_is_dead_at_once(storage, clock, now, ending, name, is_stored) -> None:
    if is_stored:
        storage.set(ANN, "k", small(b"old"), now())
    call(storage, ending, now())
    for elapsed in (0, 10 * TTL):
        clock.step(elapsed)
        with pytest.raises(SessionEnded) as caught:
            call(storage, name, now())
        assert caught.value.ended_at == START


def test_what_nothing_is_known_of_is_opened_by_the_id_that_asks(storage, clock, now) -> None:
    assert storage.current(ANN, now()) == ANN
    storage.set(ANN, "k", small(b"v"), now())
    clock.step(TTL)
    maintain(storage, clock(), clock())
    assert storage.current(NEW_ANN, now()) == NEW_ANN
    assert storage.current(owner("u.ann"), now()) == owner("u.ann")


@pytest.mark.parametrize("is_stored", [False, True])
def test_the_present_session_is_found_without_its_id_however_often_it_was_renewed(
    storage, clock, now, is_stored
) -> None:
    if is_stored:
        storage.set(ANN, "k", small(b"v"), now())
        assert storage.current(NEW_ANN, now()) == ANN
    storage.renew(ANN, NEW_ANN.session, now())
    clock.step(TTL / 2)
    assert [storage.current(each, now()) for each in (ANN, NEW_ANN)] == [NEW_ANN, NEW_ANN]
    newest = owner("s.ann", "newest")
    storage.renew(NEW_ANN, newest.session, now())
    assert storage.current(ANN, now()) == newest
    clock.step(TTL)  # Its values have expired, and its ids are known.
    assert storage.current(ANN, now()) == newest
    maintain(storage, clock(), START)
    assert storage.current(ANN, now()) == newest
    storage.set(storage.current(ANN, now()), "k", small(b"new"), now())
    assert items(storage, newest, now()) == [("k", b"new")]


@pytest.mark.parametrize("is_stored", [False, True])
def test_nothing_opens_a_session_that_has_ended(storage, clock, now, is_stored) -> None:
    if is_stored:
        storage.set(ANN, "k", small(b"v"), now())
    storage.renew(ANN, NEW_ANN.session, now())
    clock.step(1)
    storage.end(NEW_ANN, now())
    for elapsed in (1, 10 * TTL):
        clock.step(elapsed)
        maintain(storage, clock(), START)
        for each in (ANN, NEW_ANN):
            with pytest.raises(SessionEnded) as caught:
                storage.current(each, now())
            assert caught.value.ended_at == START + 1


def test_to_ask_for_the_present_session_is_no_use(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    clock.step(TTL - 1)
    storage.current(ANN, now())
    assert expires(storage, ANN, now()) == START + TTL


def test_the_present_session_is_that_of_the_transaction_and_after_a_rollback_that_before(storage, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    with suppress(ZeroDivisionError), storage.transaction(ANN):
        storage.renew(ANN, NEW_ANN.session, now())
        assert storage.current(ANN, now()) == NEW_ANN
        storage.end(NEW_ANN, now())
        with pytest.raises(SessionEnded):
            storage.current(ANN, now())
        raise ZeroDivisionError
    assert storage.current(NEW_ANN, now()) == ANN


def test_a_session_without_values_can_be_renewed(storage, now) -> None:
    storage.renew(ANN, NEW_ANN.session, now())
    assert (storage.keys(NEW_ANN, now()), storage.stat(NEW_ANN, now())) == ([], Stat(None, 0, 0))
    storage.set(NEW_ANN, "k", small(b"v"), now())
    assert items(storage, NEW_ANN, now()) == [("k", b"v")]


def test_a_session_can_be_renewed_again_and_again(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    ids = [owner("s.ann", f"id {n}") for n in range(3)]
    for old, new in zip([ANN, *ids], ids, strict=False):
        clock.step(1)
        storage.renew(old, new.session, now())
    assert items(storage, ids[-1], now()) == [("k", b"v")]
    for dead in [ANN, *ids[:-1]]:
        with pytest.raises(SessionEnded) as caught:
            storage.get(dead, "k", now())
        assert caught.value.ended_at == START + 3


def test_to_renew_a_session_brings_back_no_value_that_has_expired(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    clock.step(TTL)
    storage.renew(ANN, NEW_ANN.session, now())
    assert (storage.keys(NEW_ANN, now()), storage.stat(NEW_ANN, now())) == ([], Stat(None, 0, 0))
    with pytest.raises(SessionEnded):
        storage.get(ANN, "k", now())


@pytest.mark.parametrize("is_maintained", [False, True])
def test_expiry_empties_a_renewed_session_and_does_not_rename_it(storage, clock, now, is_maintained) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    storage.renew(ANN, NEW_ANN.session, now())
    clock.step(TTL)
    if is_maintained:
        maintain(storage, clock(), START)
    assert storage.keys(NEW_ANN, now()) == []
    with pytest.raises(SessionEnded):
        storage.set(ANN, "k", small(b"late"), now())
    storage.set(NEW_ANN, "k", small(b"new"), now())
    assert items(storage, NEW_ANN, now()) == [("k", b"new")]
    assert expires(storage, NEW_ANN, now()) == clock() + TTL


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_session_ends_once_whether_it_had_values_or_not(storage, clock, now, is_stored) -> None:
    if is_stored:
        storage.set(ANN, "k", small(b"old"), now())
    assert storage.end(ANN, now()) == START
    clock.step(1)
    assert storage.end(ANN, now()) == START
    assert storage.owners("", now()) == []


def test_to_end_an_id_that_was_renewed_changes_nothing(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    storage.renew(ANN, NEW_ANN.session, now())
    clock.step(1)
    assert storage.end(ANN, now()) == START
    assert items(storage, NEW_ANN, now()) == [("k", b"v")]
    assert storage.end(NEW_ANN, now()) == START + 1
    for each in (ANN, NEW_ANN):
        with pytest.raises(SessionEnded) as caught:
            storage.get(each, "k", now())
        assert caught.value.ended_at == START + 1


# The sessions of a user


def test_the_sessions_of_a_user_are_theirs_alone_oldest_first(storage, clock, now) -> None:
    for name in ("s.second", "s.first", "s.other"):  # What comes first is not decided by the names.
        storage.set(owner(name), "k", large(b"v"), now())
        clock.step(1)
    sessions = [owner(name, "new id") for name in ("s.first", "s.second", "s.empty")]
    for session in sessions:
        storage.renew(owner(session.name), session.session, now(), USER)
    storage.renew(owner("s.other"), digest("new id"), now(), OTHER_USER)
    first, second, empty = sessions
    nbytes = size_of(storage, {"k": large(b"v")}, now())
    expires = clock() + TTL
    assert storage.sessions(USER, now()) == [
        SessionInfo(second, START, expires, nbytes),
        SessionInfo(first, START + 1, expires, nbytes),
        SessionInfo(empty, START + 3, expires, 0),
    ]
    assert [info.owner.name for info in storage.sessions(OTHER_USER, now())] == ["s.other"]
    assert storage.sessions(digest("no user"), now()) == []


def test_a_session_that_ends_or_expires_is_none_of_its_users(storage, clock, now) -> None:
    for name in ("s.ended", "s.stale", "s.live"):
        storage.renew(owner(name), digest("new id"), now(), USER)
        storage.set(owner(name, "new id"), "k", small(b"v"), now())
    storage.end(owner("s.ended", "new id"), now())
    clock.step(TTL / 2)
    storage.get(owner("s.live", "new id"), "k", now())
    clock.step(TTL / 2)
    assert [info.owner for info in storage.sessions(USER, now())] == [owner("s.live", "new id")]


def test_a_session_stays_its_users_until_another_logs_in(storage, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    storage.renew(ANN, NEW_ANN.session, now(), USER)
    storage.renew(NEW_ANN, digest("id 2"), now())
    assert [info.owner.session for info in storage.sessions(USER, now())] == [digest("id 2")]
    storage.renew(owner("s.ann", "id 2"), digest("id 3"), now(), OTHER_USER)
    assert storage.sessions(USER, now()) == []
    assert [info.owner.session for info in storage.sessions(OTHER_USER, now())] == [digest("id 3")]


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("is_stored", [False, True])
def test_stat_tells_whose_session_it_is_with_values_or_without(storage, now, is_stored, in_transaction) -> None:
    with storage.transaction(ANN) if in_transaction else nullcontext():
        if is_stored:
            storage.set(ANN, "k", small(b"v"), now())
        before = storage.stat(ANN, now())
        assert before.user is None
        storage.renew(ANN, NEW_ANN.session, now(), USER)
        assert storage.stat(NEW_ANN, now()) == before._replace(user=USER)
        storage.clear(NEW_ANN, now())
        assert storage.stat(NEW_ANN, now()) == Stat(user=USER)


@pytest.mark.parametrize("again", ["set", "renew"])
@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("is_maintained", [False, True])
def test_a_session_whose_values_have_expired_belongs_to_no_user(
    storage, clock, now, is_stored, is_maintained, again
) -> None:
    storage.renew(ANN, NEW_ANN.session, now(), USER)
    if is_stored:
        storage.set(NEW_ANN, "k", small(b"v"), now())
    clock.step(TTL)
    assert storage.stat(NEW_ANN, now()) == Stat()
    if is_maintained:
        maintain(storage, clock(), 0)
    session = NEW_ANN
    if again == "renew":
        session = owner("s.ann", "another id")
        storage.renew(NEW_ANN, session.session, now())
    storage.set(session, "k", small(b"v"), now())
    assert (storage.stat(session, now()).user, storage.sessions(USER, now())) == (None, [])
    storage.renew(session, digest("last id"), now(), OTHER_USER)
    (info,) = storage.sessions(OTHER_USER, now())
    assert info.created_at == clock()


def test_a_login_that_is_rolled_back_leaves_the_session_as_it_was(storage, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    with suppress(ZeroDivisionError), storage.transaction(ANN):
        storage.renew(ANN, NEW_ANN.session, now(), USER)
        assert items(storage, NEW_ANN, now()) == [("k", b"v")]
        raise ZeroDivisionError
    assert (items(storage, ANN, now()), storage.sessions(USER, now())) == ([("k", b"v")], [])


# Maintenance


def test_maintenance_removes_expired_owners_and_says_how_many(storage, clock, now) -> None:
    for n in range(3):
        storage.set(owner(f"s.stale{n}"), "k", large(b""), now())
    storage.set(owner("u.stale"), "k", small(b""), now())
    clock.step(TTL)
    storage.set(BOB, "k", small(b"v"), now())
    assert maintain(storage, clock(), clock()).owners == 4
    assert list(storage.all_owners()) == ["s.bob"]
    assert items(storage, BOB, now()) == [("k", b"v")]
    assert maintain(storage, clock(), clock()) == Removed(0, 0)


def test_maintenance_removes_expired_keys_and_says_how_many(storage, clock, now) -> None:
    for each in (ANN, BOB):
        storage.set_all(each, [("k", small(b"v")), ("other", large(b""))], now())
        storage.set(each, "cut", large(b""), now(), clock() + 1)
    clock.step(1)
    assert maintain(storage, clock(), clock()) == Removed(0, 2)
    assert items(storage, ANN, now()) == items(storage, BOB, now()) == [("k", b"v"), ("other", b"")]
    nbytes = size_of(storage, {"k": small(b"v"), "other": large(b"")}, now())
    assert storage.stat(BOB, now()) == Stat(START + TTL, nbytes, 2)


def test_maintenance_comes_to_an_end_however_much_has_expired(storage, clock, now) -> None:
    for n in range(300):
        storage.set(owner(f"s.{n}"), "k", small(b""), now())
    storage.set_all(ANN, [(str(n), small(b"")) for n in range(1000)], now())
    clock.step(TTL)
    assert maintain(storage, clock(), clock()).owners == 301
    assert list(storage.all_owners()) == []


@pytest.mark.parametrize("ending", ENDS)
def test_a_dead_id_stays_dead_through_maintenance_until_it_may_be_forgotten(storage, clock, now, ending) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    call(storage, ending, now())
    clock.step(TTL)
    maintain(storage, clock(), ended_before=START)
    with pytest.raises(SessionEnded) as caught:
        storage.set(ANN, "k", small(b"late"), now())
    assert caught.value.ended_at == START
    maintain(storage, clock(), ended_before=START + 1)
    assert (list(storage.all_owners()), items(storage, ANN, now())) == ([], [])


def test_a_session_in_use_is_remembered_however_long_ago_it_was_renewed(storage, clock, now) -> None:
    storage.set(ANN, "k", small(b"v"), now())
    storage.renew(ANN, NEW_ANN.session, now())
    clock.step(TTL / 2)
    maintain(storage, clock(), ended_before=clock())
    assert items(storage, NEW_ANN, now()) == [("k", b"v")]
    with pytest.raises(SessionEnded):
        storage.get(ANN, "k", now())


@pytest.mark.parametrize("prefix", ["", "a"])
def test_an_expiry_limit_brings_forward_what_lies_after_it_and_nothing_else(storage, clock, now, prefix) -> None:
    forever, early, late, other, ended = map(owner, ["a.forever", "a.early", "a.late", "b.late", "a.ended"])
    storage.set(forever, "k", small(b""), ExpiryPolicy(None, clock).access())
    storage.set(early, "k", small(b""), now())
    clock.step(TTL / 2)
    for each in (late, other, ended):
        storage.set(each, "k", small(b""), now())
    storage.end(ended, now())
    latest = START + TTL + 1
    maintain(storage, clock(), START, ExpiryLimit(prefix, latest))
    expected = {forever: math.inf, early: START + TTL, late: latest, other: clock() + TTL if prefix else latest}
    assert {each: expires(storage, each, now()) for each in expected} == expected
    with pytest.raises(SessionEnded):
        storage.get(ended, "k", now())


@pytest.mark.parametrize("wait", [False, True])
def test_maintenance_waits_for_other_writers_only_when_it_may(storage, clock, now, thread, wait) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    clock.step(TTL)
    with storage.transaction(ANN):
        storage.set(ANN, "k", small(b"new"), now())
        maintaining = thread.submit(storage.maintain, clock(), clock(), None, wait)
        # A storage that locks owner by owner may pass over those that are being written to.
        refused = not wait and isinstance(maintaining.exception(timeout=10), StorageBusy)
    assert refused or maintaining.result(timeout=30) == Removed(0, 0)
    assert items(storage, ANN, now()) == [("k", b"new")]


def test_a_new_storage_needs_no_maintenance(storage) -> None:
    assert storage.needs_maintenance is False
    assert storage.maintain(START, START) == Removed()


@pytest.mark.parametrize("kind", [small, large])
def test_maintenance_tells_once_of_each_owner_that_expired_and_its_keys_and_keeps_no_one_waiting(
    storage, clock, now, thread, kind
) -> None:
    storage.renew(EVE, digest("new id"), now(), USER)  # It is remembered, and has no values.
    storage.set(NEW_ANN, "other", kind(b"v"), now())
    storage.renew(NEW_ANN, digest("id 2"), now())  # It is remembered, and has.
    many = [f"key {n}" for n in range(300)]
    storage.set_all(owner("u.many"), [(key, small(b"v")) for key in many], now())
    storage.end(owner("s.ended"), now())
    clock.step(TTL - 1)
    storage.set(BOB, "k", small(b"v"), now())
    clock.step(1)
    told: list[tuple[str, list[str]]] = []

    def tell(name: str, keys: list[str]) -> None:
        thread.submit(storage.set, BOB, name, small(b"told"), now()).result(timeout=20)
        told.append((name, keys))

    for _ in range(2):
        while storage.maintain(clock(), START, wait=True, expired=tell).has_more:
            pass
    if type(storage).__name__ == "RedisStorage":  # Its server removes by itself what has expired.
        assert told == []
    else:
        assert sorted(told) == [("s.ann", ["other"]), ("u.many", many)]
    assert storage.keys(BOB, now()) == ["k", *(name for name, _ in told)]


# Transactions


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("name", WRITES | ENDS)
def test_an_exception_that_leaves_a_transaction_rolls_back_all_of_it(storage, now, name, error) -> None:
    storage.set(ANN, "k", large(b"old"), now())
    with suppress(error), storage.transaction(ANN):
        storage.set(ANN, "other", large(b""), now())
        call(storage, name, now())
        raise error
    assert items(storage, ANN, now()) == [("k", b"old")]
    assert nbytes(storage, ANN, now()) == size_of(storage, {"k": large(b"old")}, now())


@pytest.mark.parametrize("name", WRITES | ENDS)
def test_what_a_transaction_wrote_to_other_owners_is_rolled_back_with_it(storage, now, name) -> None:
    storage.set(ANN, "k", small(b"old"), now())
    rolled_back: list[str] = []
    with suppress(ZeroDivisionError), storage.transaction(EVE):
        call(storage, name, now())
        on_rollback(storage, lambda: rolled_back.append(name))
        raise ZeroDivisionError
    assert items(storage, ANN, now()) == [("k", b"old")]
    assert rolled_back == [name]


@pytest.mark.parametrize("name", WRITES | ENDS)
def test_what_a_transaction_wrote_is_committed_at_its_end(storage, now, name) -> None:
    for each in (ANN, BOB):
        storage.set(each, "k", small(b"old"), now())
    with storage.transaction(ANN):
        call(storage, name, now(), ANN)
    call(storage, name, now(), BOB)
    ann, bob = storage.dump("s.ann"), storage.dump("s.bob")
    assert (ann.values, ann.expires, ann.renewed_at) == (bob.values, bob.expires, bob.renewed_at)
    assert (ann.session == ANN.session) == (bob.session == BOB.session)


def test_an_inner_transaction_and_a_call_can_fail_by_themselves(storage, now) -> None:
    with storage.transaction(ANN):
        storage.set(ANN, "outer", small(b"1"), now())
        for inner in ["x", "y"]:
            with suppress(ValueError), storage.transaction(ANN):
                storage.set(ANN, inner, small(b""), now())
                with storage.transaction(ANN):
                    storage.set(ANN, "outer", small(b"2"), now())
                raise ValueError
        with pytest.raises(QuotaExceeded):
            storage.set(ANN, "large", small(b"3" * MAX_BYTES), now())
        storage.set(ANN, "last", small(b"4"), now())
    assert items(storage, ANN, now()) == [("outer", b"1"), ("last", b"4")]


def test_what_was_registered_happens_after_the_commit_or_the_rollback_that_it_was_registered_for(storage, now) -> None:
    happened: list[str] = []

    def register(name: str) -> None:
        transaction = current_transaction(storage, Transaction)
        assert transaction is not None
        transaction.on_commit(lambda: happened.append(f"{name} committed"))
        on_rollback(storage, lambda: happened.append(f"{name} rolled back"))

    on_rollback(storage, lambda: happened.append("rolled back without a transaction"))
    with storage.transaction(ANN):
        register("outer")
        with storage.transaction(ANN):
            register("kept")
        with suppress(ValueError), storage.transaction(ANN):
            register("failed")
            raise ValueError
        assert happened == ["failed rolled back"]
        storage.set(ANN, "k", small(b"v"), now())
    assert happened == ["failed rolled back", "outer committed", "kept committed"]
    with suppress(ValueError), storage.transaction(ANN):
        register("last")
        raise ValueError
    assert happened[3:] == ["last rolled back"]


@pytest.mark.parametrize("name", WRITES | ENDS)
def test_others_wait_while_an_owner_is_in_a_transaction_and_give_up_at_the_timeout(hasty, now, thread, name) -> None:
    with hasty.transaction(ANN):
        assert isinstance(thread.submit(call, hasty, name, now()).exception(timeout=30), StorageBusy)
        assert items(hasty, ANN, now()) == [("k", b"old")]
    thread.submit(call, hasty, name, now()).result(timeout=30)


@pytest.mark.parametrize("name", WRITES | ENDS)
def test_a_transaction_takes_in_no_call_of_another_context_of_its_thread(hasty, now, name) -> None:
    """As the coroutines of async callbacks are, which share a thread."""
    with suppress(ZeroDivisionError), hasty.transaction(ANN):
        with pytest.raises(StorageBusy):
            Context().run(call, hasty, name, now())
        raise ZeroDivisionError
    assert items(hasty, ANN, now()) == [("k", b"old")]


@pytest.mark.parametrize("factory", READ_BESIDE_WRITERS.values(), ids=READ_BESIDE_WRITERS, indirect=True)
def test_a_read_that_cannot_move_the_expiry_at_once_leaves_it_to_the_next_use(hasty, clock, now, thread) -> None:
    clock.step(TTL / 2)
    with hasty.transaction(ANN):
        assert thread.submit(hasty.get, ANN, "k", now()).result(timeout=30) == small(b"old")
        assert expires(hasty, ANN, now()) == START + TTL
    assert hasty.get(ANN, "k", now()) == small(b"old")
    assert expires(hasty, ANN, now()) == clock() + TTL


# All of an owner


def test_what_is_dumped_and_loaded_is_the_same_elsewhere(factory, storage, tmp_path, clock, now) -> None:
    elsewhere = factory(tmp_path / "elsewhere", max_bytes=10)
    storage.set(ANN, "z", large(b"1" * 100), now(), clock() + 5)
    storage.set(ANN, "a", small(b"2"), now())
    clock.step(1)
    storage.renew(ANN, NEW_ANN.session, now(), USER)
    storage.end(BOB, now())
    storage.set(owner("u.eve"), "k", small(b""), ExpiryPolicy(None, clock).access())
    assert sorted(storage.all_owners()) == ["s.ann", "s.bob", "u.eve"]
    elsewhere.set(ANN, "before", small(b""), now())
    for name in storage.all_owners():
        elsewhere.load(name, storage.dump(name))
        there, here = elsewhere.dump(name), storage.dump(name)
        assert there._replace(values=[]) == here._replace(values=[])
    assert items(elsewhere, NEW_ANN, now()) == [("z", b"1" * 100), ("a", b"2")]
    assert elsewhere.stat(NEW_ANN, now()) == storage.stat(NEW_ANN, now())
    assert elsewhere.sessions(USER, now()) == storage.sessions(USER, now())
    assert expires(elsewhere, owner("u.eve"), now()) == math.inf
    for dead in (ANN, BOB):
        with pytest.raises(SessionEnded) as caught:
            elsewhere.get(dead, "k", now())
        assert caught.value.ended_at == START + 1
    clock.step(4)
    assert elsewhere.keys(NEW_ANN, now()) == ["a"]
    assert (elsewhere.dump("s.none"), list(elsewhere.problems())) == (None, [])
    elsewhere.close()


def test_a_dump_tells_which_id_opens_an_owner_and_whose_session_it_is(storage, clock, now) -> None:
    storage.set(ANN, "k", large(b"v"), now(), clock() + 5)
    storage.end(BOB, now())
    storage.set(owner("u.eve"), "k", small(b""), now())
    clock.step(1)
    storage.renew(ANN, NEW_ANN.session, now(), USER)
    ann, bob, eve = (storage.dump(name) for name in ("s.ann", "s.bob", "u.eve"))
    assert (ann.expires, ann.session, ann.renewed_at) == (clock() + TTL, NEW_ANN.session, START + 1)
    assert (ann.user, ann.created_at, ann.damaged) == (USER, START, ())
    assert [(key, read(stored), at) for key, stored, at in ann.values] == [("k", b"v", START + 5)]
    assert (bob.session, bob.renewed_at, bob.values) == (ENDED, START, [])
    assert (eve.session, eve.renewed_at, eve.user) == (None, None, None)


# Threads, processes, and the end


def add_ones(storage: Storage, now: Now, name: str, gate: Callable[[], object] = int) -> None:
    gate()
    for _ in range(25):
        with storage.transaction(ANN):
            stored = storage.get(ANN, "n", now())
            n = b"%d" % (1 + int(read(stored) if stored else 0))
            storage.set(ANN, "n", small(n), now())
            storage.set(ANN, name, large(n), now())


def add_ones_elsewhere(backend: str, folder: Path, name: str) -> None:
    storage = SHARED[backend](folder, timeout=30)
    add_ones(storage, ExpiryPolicy(TTL, HandClock()).access, name)
    storage.close()


def test_threads_lose_nothing_of_each_other_and_items_are_of_one_point_in_time(storage, now) -> None:
    gate = Barrier(9)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(add_ones, storage, now, f"t{n}", gate.wait) for n in range(8)]
        gate.wait()
        while not all(future.done() for future in futures):
            seen = dict(items(storage, ANN, now()))
            assert not seen or seen.pop("n") == max(seen.values(), key=int)
        assert [future.result() for future in futures] == [None] * 8
    assert storage.get(ANN, "n", now()) == small(b"200")
    assert sorted(storage.keys(ANN, now())) == ["n", *(f"t{n}" for n in range(8))]


@pytest.mark.parametrize("backend", SHARED)
def test_processes_lose_nothing_of_each_other_before_and_after_a_fork(backend, tmp_path, now) -> None:
    storage = SHARED[backend](tmp_path, timeout=30)
    add_ones(storage, now, "before")
    children = [Child("spawn", add_ones_elsewhere, backend, tmp_path, "spawned")]
    children += [Child("fork", add_ones, storage, now, name) for name in ("forked", "forked too")]
    add_ones(storage, now, "after")
    assert [child.outcome() for child in children] == [None] * 3
    assert storage.get(ANN, "n", now()) == small(b"125")
    assert set(storage.keys(ANN, now())) == {"n", "before", "after", "spawned", "forked", "forked too"}
    storage.close()


@pytest.mark.parametrize("url", ["memory://", "sqlite://:memory:"])
def test_what_lies_in_the_memory_of_a_process_is_closed_to_its_forks(url, now) -> None:
    storage = open_url(url)
    storage.set(ANN, "k", small(b"v"), now())
    outcome = Child("fork", storage.get, ANN, "k", now()).outcome()
    assert isinstance(outcome, StorageClosed)
    assert "use a file" in str(outcome)
    assert storage.get(ANN, "k", now()) == small(b"v")
    storage.close()


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_storage_says_so_and_can_be_closed_again(storage, now, name) -> None:
    storage.close()
    storage.close()
    with pytest.raises(StorageClosed):
        call(storage, name, now())


def test_all_else_of_a_closed_storage_says_so_too(storage, now) -> None:
    storage.close()
    for each in (
        lambda: storage.owners("", now()),
        lambda: storage.sessions(USER, now()),
        lambda: storage.current(ANN, now()),
        lambda: storage.maintain(START, START, wait=True),
        lambda: storage.transaction(ANN).__enter__(),
        lambda: list(storage.all_owners()),
        lambda: storage.dump("s.ann"),
    ):
        with pytest.raises(StorageClosed):
            each()


def test_closing_during_a_transaction_of_another_thread_is_at_most_a_storage_error(storage, now, thread) -> None:
    with suppress(StorageError), storage.transaction(ANN):
        storage.set(ANN, "k", small(b""), now())
        thread.submit(storage.close).result(timeout=30)
        with suppress(StorageError):
            storage.set(ANN, "k", small(b""), now())
    with pytest.raises(StorageClosed):
        storage.get(ANN, "k", now())


def test_keys_that_have_expired_by_themselves_count_for_nothing_in_a_users_list(storage, clock, now) -> None:
    ann = owner("s.ann", "new id")
    storage.renew(owner("s.ann"), ann.session, now(), USER)
    storage.set(ann, "k", small(b"v"), now())
    storage.set(ann, "l", small(b"gone"), now(), key_expires=clock() + 1)
    clock.step(1)
    assert [info.nbytes for info in storage.sessions(USER, now())] == [size_of(storage, {"k": small(b"v")}, now())]


@pytest.mark.parametrize("read", READS)
def test_a_read_of_a_session_without_values_keeps_whose_it_is(storage, clock, now, read) -> None:
    storage.renew(ANN, NEW_ANN.session, now(), USER)
    for _ in range(3):
        clock.step(TTL / 2)
        call(storage, read, now(), NEW_ANN)
    assert [info.owner for info in storage.sessions(USER, now())] == [NEW_ANN]
    assert storage.stat(NEW_ANN, now()).user == USER
