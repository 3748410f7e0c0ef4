"""Every storage keeps what flask_dash_store/storage/base.py promises, sentence by sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from backends import BACKENDS, SHARED, Child, Factory, items, large, read, size_of, small
from clocks import HandClock

from flask_dash_store.errors import QuotaExceeded, SessionEnded, StorageBusy, StorageClosed, StorageError, TooManyKeys
from flask_dash_store.expiry import Access, ExpiryPolicy
from flask_dash_store.storage import Storage

Now = Callable[..., Access]

START = HandClock().now
TTL = 1000.0
MAX_BYTES = 20_000

# The methods, with what they are given between the owner and the access.
READS: dict[str, tuple[Any, ...]] = {"get": ("k",), "has": ("k",), "keys": (), "items": (), "count": ()}
WRITES: dict[str, tuple[Any, ...]] = {
    "set": ("k", (b"new", None)),
    "expire": ("k", START + 1),
    "delete": ("k",),
    "clear": (),
}
QUESTIONS: dict[str, tuple[Any, ...]] = {"expiry": (), "nbytes": ()}
ENDS: dict[str, tuple[Any, ...]] = {"move": ("bob", lambda key, payload: payload), "end": ()}
CALLS = READS | WRITES | QUESTIONS | ENDS | {"owners": ()}

NOTHING = {"get": None, "has": False, "keys": [], "items": [], "count": 0, "expire": False, "delete": False}
NOTHING |= {"clear": None, "expiry": None, "nbytes": 0}
ABSENCES: dict[str, tuple[tuple[str, ...], float]] = {
    "never written": ((), 0),
    "deleted": (("set", "delete"), 0),
    "cleared": (("set", "clear"), 0),
    "its time is over": (("set", "expire"), 1),
    "its owner's time is over": (("set",), TTL),
}
OWNERS = ["a", "a0", "a.", "a-", "a!", "a%", "a_", "aa", "A", "b", "a%2F", "u.", "u..", "s.a"]


def call(storage: Storage, name: str, access: Access, owner: str = "ann") -> Any:
    return getattr(storage, name)(owner, *CALLS[name], access=access)


@pytest.fixture
def now(clock: HandClock) -> Now:
    """Makes the present access."""
    return ExpiryPolicy(TTL, clock).access


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def factory(request: pytest.FixtureRequest) -> Factory:
    return request.param


@pytest.fixture
def storage(factory: Factory, tmp_path: Path) -> Iterator[Storage]:
    storage = factory(tmp_path, max_bytes=MAX_BYTES, timeout=30)
    yield storage
    storage.close()


@pytest.fixture
def impatient(factory: Factory, tmp_path: Path, now: Now) -> Iterator[Storage]:
    """A storage that waits for hardly anybody, and has a value."""
    storage = factory(tmp_path, timeout=0.05)
    storage.set("ann", "k", small(b"old"), now())
    yield storage
    storage.close()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


# What is absent


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("absence", ABSENCES)
def test_what_is_absent_is_no_error(storage, clock, now, absence, name) -> None:
    calls, elapsed = ABSENCES[absence]
    for each in calls:
        call(storage, each, now())
    clock.step(elapsed)
    assert call(storage, name, now()) == NOTHING[name]
    assert storage.owners("ann", now()) == []


@pytest.mark.parametrize("absence", ABSENCES)
def test_what_is_absent_is_as_if_it_had_never_been(storage, clock, now, absence) -> None:
    calls, elapsed = ABSENCES[absence]
    for each in calls:
        call(storage, each, now())
    clock.step(elapsed)
    storage.set("ann", "first", small(b"1"), now())
    storage.set("ann", "k", small(b"again"), now(), "keep")
    assert items(storage, "ann", now()) == [("first", b"1"), ("k", b"again")]
    assert storage.nbytes("ann", now()) == size_of(storage, {"first": small(b"1"), "k": small(b"again")}, now())


# Values


@pytest.mark.parametrize("key", ["", "/", "a/b", "%", "_", "k", "K", "🦆" * 512, "';--", "\n"])
def test_any_text_is_a_key(storage, now, key) -> None:
    storage.set("ann", key, small(b"v"), now())
    storage.set("ann", "other", small(b""), now())
    assert (storage.get("ann", key, now()), storage.has("ann", key, now())) == (small(b"v"), True)
    assert items(storage, "ann", now()) == [(key, b"v"), ("other", b"")]
    assert storage.nbytes("ann", now()) >= len(key.encode()) + len(b"v") + len("other")
    assert storage.delete("ann", key, now()) is True
    assert storage.keys("ann", now()) == ["other"]


@pytest.mark.parametrize("make", [small, large])
@pytest.mark.parametrize("before", [small, large])
def test_a_value_of_any_bytes_replaces_another_with_its_body(storage, now, before, make) -> None:
    for payload in (b"", bytes(range(64)), b"\0\xff"):
        storage.set("ann", "k", before(b"old"), now())
        storage.set("ann", "k", make(payload), now())
        assert read(storage.get("ann", "k", now())) == payload
        assert items(storage, "ann", now()) == [("k", payload)]
        assert storage.nbytes("ann", now()) == size_of(storage, {"k": make(payload)}, now())


def test_a_body_is_a_copy_to_the_caller_who_may_change_it(storage, now) -> None:
    storage.set("ann", "k", large(b"v"), now())
    for _ in range(2):
        _, body = storage.get("ann", "k", now())
        assert bytes(body.parts[0][:1]) == b"v"
        body.parts[0][:1] = b"x"


def test_keys_are_in_order_of_insertion_and_an_overwrite_keeps_its_place(storage, now) -> None:
    for key in ["z", "a", "m", "z"]:
        storage.set("ann", key, small(b""), now())
    storage.delete("ann", "a", now())
    storage.set("ann", "a", small(b""), now())
    storage.move("ann", "bob", lambda key, payload: payload, now())
    assert storage.keys("bob", now()) == [key for key, _ in items(storage, "bob", now())] == ["z", "m", "a"]
    assert storage.count("bob", now()) == 3


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("name", WRITES | ENDS)
def test_no_owner_meets_another_whatever_their_names_are(storage, now, name, owner) -> None:
    for each in OWNERS:
        storage.set(each, "k", small(each.encode()), now())
    call(storage, name, now(), owner)
    others = [each for each in OWNERS if each != owner]
    assert [items(storage, each, now()) for each in others] == [[("k", each.encode())] for each in others]
    sizes = [size_of(storage, {"k": small(each.encode())}, now()) for each in others]
    assert [storage.nbytes(each, now()) for each in others] == sizes


@pytest.mark.parametrize("prefix", ["", "a", "a%", "A", "u.", "zz"])
def test_owners_are_those_with_values_whose_names_begin_so_in_order(storage, clock, now, prefix) -> None:
    for owner in reversed(OWNERS):
        storage.set(owner, "k", small(b""), now())
    storage.end("a_", now())
    storage.set("aaa", "k", small(b""), now(), clock() + 1)
    clock.step(1)
    assert storage.owners(prefix, now()) == sorted(o for o in OWNERS if o.startswith(prefix) and o != "a_")
    clock.step(TTL)
    assert storage.owners(prefix, now()) == []


@pytest.mark.parametrize("make", [small, large])
def test_an_owner_may_take_all_of_the_quota_and_not_a_byte_more(factory, storage, tmp_path, now, make) -> None:
    fits = {"é": small(b"1" * 1000), "k": make(b"2")}
    quota = size_of(storage, fits, now())
    for limit in (quota, quota - 1):
        limited = factory(tmp_path / str(limit), max_bytes=limit)
        limited.set("bob", "k", small(b""), now())
        limited.set("ann", "é", small(b"1" * 1000), now())
        with suppress(QuotaExceeded) if limit < quota else nullcontext():
            limited.set("ann", "k", make(b"2"), now())
        assert limited.keys("ann", now()) == (["é", "k"] if limit == quota else ["é"])
        with pytest.raises(QuotaExceeded):
            limited.set("ann", "é", small(b"3" * 3000), now())
        assert limited.get("ann", "é", now()) == small(b"1" * 1000)
        limited.delete("ann", "é", now())
        limited.set("ann", "k", make(b"2"), now())
        limited.close()


def test_an_owner_may_have_as_many_keys_as_it_may_and_not_one_more(factory, tmp_path, clock, now) -> None:
    limited = factory(tmp_path / "limited", max_keys=2)
    limited.set("ann", "stale", small(b"1"), now(), clock() + 1)
    limited.set("ann", "k", small(b"1"), now())
    with pytest.raises(TooManyKeys, match="'new'"):
        limited.set("ann", "new", small(b"2"), now())
    limited.set("ann", "k", large(b"2"), now())
    clock.step(1)
    limited.set("ann", "new", small(b"2"), now())
    with pytest.raises(TooManyKeys), limited.transaction("ann"):
        limited.delete("ann", "k", now())
        limited.set("ann", "last", small(b"3"), now())
        limited.set("ann", "more", small(b"3"), now())
    assert items(limited, "ann", now()) == [("k", b"2"), ("new", b"2")]
    limited.close()


@pytest.mark.parametrize("key", ["stale", "new"])
def test_expired_keys_take_nothing_of_the_quota(storage, clock, now, key) -> None:
    for stale in ["stale", "other"]:
        storage.set("ann", stale, small(b"1" * 9000), now(), clock() + 1)
    clock.step(1)
    storage.set("ann", key, small(b"2" * 18_000), now())
    assert items(storage, "ann", now()) == [(key, b"2" * 18_000)]
    assert storage.nbytes("ann", now()) == size_of(storage, {key: small(b"2" * 18_000)}, now())


# Expiry


@pytest.mark.parametrize(
    ("elapsed", "counts", "is_moved"),
    [(TTL / 20, True, False), (TTL / 20 + 1, True, True), (TTL - 1, True, True), (TTL - 1, False, False)],
)
@pytest.mark.parametrize("name", READS | WRITES | QUESTIONS)
def test_a_use_moves_the_expiry_when_a_touch_is_due(storage, clock, now, name, elapsed, counts, is_moved) -> None:
    storage.set("ann", "k", small(b""), now())
    storage.set("ann", "other", small(b""), now())
    clock.step(elapsed)
    call(storage, name, now(counts_as_use=counts))
    if name != "clear":
        assert storage.expiry("ann", now()) == (clock() if is_moved and name not in QUESTIONS else START) + TTL


@pytest.mark.parametrize("name", ["get", "has", "delete", "expire"])
def test_to_ask_in_vain_for_a_key_is_a_use_too(storage, clock, now, name) -> None:
    storage.set("ann", "other", small(b""), now())
    clock.step(TTL / 2)
    call(storage, name, now())
    assert storage.expiry("ann", now()) == clock() + TTL


def test_a_clock_stepped_back_brings_the_expiry_back_with_the_next_use(storage, clock, now) -> None:
    storage.set("ann", "k", small(b""), now())
    clock.step(-10 * TTL)
    assert storage.get("ann", "k", now()) == small(b"")
    assert storage.expiry("ann", now()) == clock() + TTL


def test_the_first_value_brings_an_expiry_even_when_it_is_no_use(storage, clock, now) -> None:
    storage.set("ann", "k", small(b""), now(counts_as_use=False))
    assert storage.expiry("ann", now()) == clock() + TTL


def test_values_without_an_expiry_stay(storage, clock) -> None:
    forever = ExpiryPolicy(None, clock).access
    storage.set("ann", "k", small(b"v"), forever())
    clock.step(1e9)
    assert (storage.get("ann", "k", forever()), storage.expiry("ann", forever())) == (small(b"v"), math.inf)


def test_a_set_decides_when_its_key_is_gone_unless_told_to_keep_that(storage, clock, now) -> None:
    for key in ["cut", "kept", "lifted"]:
        storage.set("ann", key, small(b"1"), now(), clock() + 5)
    storage.set("ann", "lifted", small(b"2"), now())
    storage.set("ann", "kept", small(b"2"), now(), "keep")
    storage.set("ann", "new", small(b"2"), now(), "keep")
    clock.step(5)
    assert storage.keys("ann", now()) == ["lifted", "new"]


def test_expire_sets_when_a_key_is_gone_and_says_whether_there_is_one(storage, clock, now) -> None:
    storage.set("ann", "cut", small(b""), now())
    storage.set("ann", "lifted", small(b""), now(), clock() + 5)
    assert storage.expire("ann", "cut", clock() + 5, now()) is True
    assert storage.expire("ann", "lifted", None, now()) is True
    assert storage.expire("ann", "missing", None, now()) is False
    clock.step(5)
    assert storage.keys("ann", now()) == ["lifted"]


@pytest.mark.parametrize("prefix", ["", "a"])
def test_limit_expiry_brings_forward_what_lies_after_it_and_nothing_else(storage, clock, now, prefix) -> None:
    storage.set("a.forever", "k", small(b""), ExpiryPolicy(None, clock).access())
    storage.set("a.early", "k", small(b""), now())
    clock.step(TTL / 2)
    for owner in ["a.late", "b.late", "a.ended"]:
        storage.set(owner, "k", small(b""), now())
    storage.end("a.ended", now())
    storage.limit_expiry(prefix, START + TTL + 1)
    late = clock() + TTL if prefix else START + TTL + 1
    expected = {"a.forever": math.inf, "a.early": START + TTL, "a.late": START + TTL + 1, "b.late": late}
    assert {owner: storage.expiry(owner, now()) for owner in expected} == expected
    with pytest.raises(SessionEnded):
        storage.get("a.ended", "k", now())


# Ends


def test_move_gives_everything_to_the_new_owner_under_a_new_seal(storage, clock, now) -> None:
    storage.set("ann", "stays", small(b"1"), now())
    storage.set("ann", "goes", large(b"22"), now(), clock() + TTL)
    clock.step(TTL / 2)
    storage.move("ann", "bob", lambda key, payload: b"new seal " + payload, now())
    assert storage.get("bob", "stays", now()) == small(b"new seal 1")
    payload, body = storage.get("bob", "goes", now())
    assert (payload, read((b"22", body)), storage.keys("bob", now())) == (b"new seal 22", b"22", ["stays", "goes"])
    assert storage.expiry("bob", now()) == clock() + TTL
    clock.step(TTL / 2)
    assert storage.keys("bob", now()) == ["stays"]


def test_a_move_that_fails_changes_nothing(storage, now) -> None:
    storage.set("ann", "a", small(b"1"), now())
    storage.set("ann", "b", small(b"2"), now())
    with pytest.raises(ZeroDivisionError):
        storage.move("ann", "bob", lambda key, payload: payload if key == "a" else payload * (1 // 0), now())
    assert items(storage, "ann", now()) == [("a", b"1"), ("b", b"2")]
    assert items(storage, "bob", now()) == []


@pytest.mark.parametrize("name", [*READS, *WRITES, *QUESTIONS, "move"])
@pytest.mark.parametrize("ending", ENDS)
def test_an_ended_owner_says_so_on_every_read_and_write(storage, clock, now, ending, name) -> None:
    storage.set("ann", "k", small(b"old"), now())
    call(storage, ending, now())
    clock.step(10 * TTL)
    with pytest.raises(SessionEnded) as caught:
        call(storage, name, now())
    assert caught.value.ended_at == START


@pytest.mark.parametrize("is_stored", [False, True])
def test_an_owner_ends_once_whether_it_had_values_or_not(storage, clock, now, is_stored) -> None:
    if is_stored:
        storage.set("ann", "k", small(b"old"), now())
    assert storage.end("ann", now()) == START
    clock.step(1)
    assert storage.end("ann", now()) == START


def test_purge_removes_what_expired_or_ended_long_ago_a_few_owners_at_a_time(storage, clock, now) -> None:
    for n in range(3):
        storage.set(f"stale{n}", "k", small(b""), now())
        storage.end(f"ended{n}", now())
    clock.step(TTL)
    storage.end("ann", now())
    storage.set("bob", "k", small(b"v"), now())
    storage.set("bob", "cut", small(b""), now(), clock())
    assert [storage.purge(clock(), clock(), limit=4) for _ in range(3)] == [4, 2, 0]
    assert [storage.has(f"ended{n}", "k", now()) for n in range(3)] == [False] * 3
    assert items(storage, "bob", now()) == [("k", b"v")]
    assert storage.nbytes("bob", now()) == size_of(storage, {"k": small(b"v")}, now())
    with pytest.raises(SessionEnded):
        storage.get("ann", "k", now())


@pytest.mark.parametrize("wait", [False, True])
def test_purge_waits_for_other_writers_only_when_told_to(storage, clock, now, thread, wait) -> None:
    storage.set("ann", "k", small(b"old"), now())
    clock.step(TTL)
    with storage.transaction("ann"):
        storage.set("ann", "k", small(b"new"), now())
        purging = thread.submit(storage.purge, clock(), clock(), 10, wait)
        # A storage that locks owner by owner may pass over those who are being written to.
        refused = not wait and isinstance(purging.exception(timeout=10), StorageBusy)
    assert refused or purging.result(timeout=30) == 0
    assert items(storage, "ann", now()) == [("k", b"new")]


# Transactions


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("name", WRITES | ENDS)
def test_an_exception_that_leaves_a_transaction_undoes_all_of_it(storage, now, name, error) -> None:
    storage.set("ann", "k", large(b"old"), now())
    with suppress(error), storage.transaction("ann"):
        storage.set("ann", "other", large(b""), now())
        call(storage, name, now())
        raise error
    assert (items(storage, "ann", now()), items(storage, "bob", now())) == ([("k", b"old")], [])
    assert storage.nbytes("ann", now()) == size_of(storage, {"k": large(b"old")}, now())


@pytest.mark.parametrize("name", WRITES | ENDS)
def test_what_a_transaction_wrote_to_other_owners_is_undone_with_it(storage, now, name) -> None:
    storage.set("ann", "k", small(b"old"), now())
    undone: list[str] = []
    with suppress(ZeroDivisionError), storage.transaction("eve"):
        call(storage, name, now())
        storage.on_rollback(lambda: undone.append(name))
        raise ZeroDivisionError
    assert (items(storage, "ann", now()), items(storage, "bob", now())) == ([("k", b"old")], [])
    assert undone == [name]


def test_an_inner_transaction_and_a_call_can_fail_by_themselves(storage, now) -> None:
    with storage.transaction("ann"):
        storage.set("ann", "outer", small(b"1"), now())
        for inner in ["x", "y"]:
            with suppress(ValueError), storage.transaction("ann"):
                storage.set("ann", inner, small(b""), now())
                with storage.transaction("ann"):
                    storage.set("ann", "outer", small(b"2"), now())
                raise ValueError
        with pytest.raises(QuotaExceeded):
            storage.set("ann", "large", small(b"3" * MAX_BYTES), now())
        storage.set("ann", "last", small(b"4"), now())
    assert items(storage, "ann", now()) == [("outer", b"1"), ("last", b"4")]


@pytest.mark.parametrize("name", WRITES | ENDS)
def test_others_wait_while_an_owner_is_in_a_transaction_and_give_up_at_the_timeout(
    impatient, now, thread, name
) -> None:
    with impatient.transaction("ann"):
        assert isinstance(thread.submit(call, impatient, name, now()).exception(timeout=30), StorageBusy)
        assert items(impatient, "ann", now()) == [("k", b"old")]
    thread.submit(call, impatient, name, now()).result(timeout=30)


@pytest.mark.parametrize("factory", SHARED.values(), ids=SHARED, indirect=True)
def test_a_read_that_cannot_move_the_expiry_at_once_leaves_it_to_the_next_use(impatient, clock, now, thread) -> None:
    clock.step(TTL / 2)
    with impatient.transaction("ann"):
        assert thread.submit(impatient.get, "ann", "k", now()).result(timeout=30) == small(b"old")
        assert impatient.expiry("ann", now()) == START + TTL
    assert impatient.get("ann", "k", now()) == small(b"old")
    assert impatient.expiry("ann", now()) == clock() + TTL


# All of an owner


def test_what_is_dumped_and_loaded_is_the_same_elsewhere(factory, storage, tmp_path, clock, now) -> None:
    elsewhere = factory(tmp_path / "elsewhere", max_bytes=10)
    storage.set("ann", "z", large(b"1" * 100), now(), clock() + 5)
    storage.set("ann", "a", small(b"2"), now())
    storage.end("bob", now())
    storage.set("eve", "k", small(b""), ExpiryPolicy(None, clock).access())
    assert sorted(storage.everyone()) == ["ann", "bob", "eve"]
    elsewhere.set("ann", "before", small(b""), now())
    for owner in storage.everyone():
        elsewhere.load(owner, storage.dump(owner))
    assert items(elsewhere, "ann", now()) == [("z", b"1" * 100), ("a", b"2")]
    assert elsewhere.nbytes("ann", now()) == storage.nbytes("ann", now())
    assert (elsewhere.expiry("ann", now()), elsewhere.expiry("eve", now())) == (clock() + TTL, math.inf)
    with pytest.raises(SessionEnded) as caught:
        elsewhere.get("bob", "k", now())
    assert caught.value.ended_at == START
    clock.step(5)
    assert elsewhere.keys("ann", now()) == ["a"]
    assert (elsewhere.dump("nobody"), list(elsewhere.problems())) == (None, [])
    elsewhere.close()


# Threads, processes, and the end


def add_ones(storage: Storage, now: Now, name: str, gate: Callable[[], object] = int) -> None:
    gate()
    for _ in range(25):
        with storage.transaction("ann"):
            stored = storage.get("ann", "n", now())
            n = b"%d" % (1 + int(read(stored) if stored else 0))
            storage.set("ann", "n", small(n), now())
            storage.set("ann", name, large(n), now())


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
            seen = dict(items(storage, "ann", now()))
            assert not seen or seen.pop("n") == max(seen.values(), key=int)
        assert [future.result() for future in futures] == [None] * 8
    assert storage.get("ann", "n", now()) == small(b"200")
    assert sorted(storage.keys("ann", now())) == ["n", *(f"t{n}" for n in range(8))]


@pytest.mark.parametrize("backend", SHARED)
def test_processes_lose_nothing_of_each_other_before_and_after_a_fork(backend, tmp_path, now) -> None:
    storage = SHARED[backend](tmp_path, timeout=30)
    add_ones(storage, now, "before")
    children = [Child("spawn", add_ones_elsewhere, backend, tmp_path, "spawned")]
    children += [Child("fork", add_ones, storage, now, name) for name in ("forked", "forked too")]
    add_ones(storage, now, "after")
    assert [child.outcome() for child in children] == [None] * 3
    assert storage.get("ann", "n", now()) == small(b"125")
    assert set(storage.keys("ann", now())) == {"n", "before", "after", "spawned", "forked", "forked too"}
    storage.close()


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_storage_says_so_and_can_be_closed_again(storage, now, name) -> None:
    storage.close()
    storage.close()
    with pytest.raises(StorageClosed):
        call(storage, name, now())
    with pytest.raises(StorageClosed):
        storage.purge(START, START, 10)
    with pytest.raises(StorageClosed):
        storage.limit_expiry("a", START)
    with pytest.raises(StorageClosed), storage.transaction("ann"):
        pass


def test_to_close_amid_a_transaction_of_another_thread_is_no_more_than_a_storage_error(storage, now, thread) -> None:
    with suppress(StorageError), storage.transaction("ann"):
        storage.set("ann", "k", small(b""), now())
        thread.submit(storage.close).result(timeout=30)
        with suppress(StorageError):
            storage.set("ann", "k", small(b""), now())
    with pytest.raises(StorageClosed):
        storage.get("ann", "k", now())
