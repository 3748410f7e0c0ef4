"""Every storage says how much it keeps, as flask_dash_store/storage/statistics.py promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from backends import BACKENDS, large, owner, small
from clocks import HandClock

from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.owner import user_id_of, user_owner
from flask_dash_store.storage.statistics import Order, Spread, SupportsStatistics, Totals

TTL = 1000.0
DAY = 24 * 3600.0
START = HandClock().now
NAMES = ("s.a", "s.b", "u.ann", "u.bob", "h.other")


@pytest.fixture(params=BACKENDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    storage = BACKENDS[request.param](tmp_path)
    yield storage
    storage.close()


def fill(storage: Any, clock: HandClock) -> None:
    """Owners who begin one after the other, each with more bytes than the one before."""
    for number, name in enumerate(NAMES):
        clock.step(10)
        storage.set(owner(name), "k", small(b"x" * 100 * (number + 1)), ExpiryPolicy(TTL, clock).access())


def test_each_storage_says_how_much_it_keeps(storage: Any) -> None:
    assert isinstance(storage, SupportsStatistics)


def test_totals_of_nothing_are_zeros(storage: Any, clock: HandClock) -> None:
    assert storage.totals(clock.now) == Totals()


def test_totals_count_sessions_and_users_with_their_bytes_and_keys(storage: Any, clock: HandClock) -> None:
    fill(storage, clock)
    storage.set(owner("s.a"), "large", large(b"y" * 5000), ExpiryPolicy(TTL, clock).access())
    access = ExpiryPolicy(TTL, clock).access()
    nbytes = sum(storage.stat(owner(name), access).nbytes for name in NAMES if name != "h.other")
    assert storage.totals(clock.now) == Totals(2, 2, nbytes, 5, START + 10, 2, 2)


def test_totals_follow_what_is_deleted_and_overwritten(storage: Any, clock: HandClock) -> None:
    fill(storage, clock)
    access = ExpiryPolicy(TTL, clock).access()
    before = storage.totals(clock.now)
    storage.set(owner("s.a"), "k", small(b"x" * 60), access)
    assert storage.totals(clock.now).nbytes == before.nbytes - 40
    storage.clear(owner("u.bob"), access)
    assert storage.totals(clock.now)[:4] == (2, 1, before.nbytes - 40 - 401, 3)


def test_totals_tell_how_many_sessions_have_begun_of_late(storage: Any, clock: HandClock) -> None:
    for name, age in (("s.new", 0.0), ("s.today", 7200.0), ("s.old", 2 * DAY), ("u.new", 0.0)):
        access = ExpiryPolicy(9 * DAY, lambda age=age: clock.now - age).access()
        storage.set(owner(name), "k", small(b"x"), access)
    totals = storage.totals(clock.now)
    assert (totals.sessions, totals.began_last_hour, totals.began_last_day) == (3, 1, 2)
    assert totals.oldest == clock.now - 2 * DAY


def test_totals_leave_out_what_has_expired_or_ended_and_say_how_many_those_are(storage: Any, clock: HandClock) -> None:
    fill(storage, clock)
    access = ExpiryPolicy(TTL, clock).access()
    storage.end(owner("s.b"), access)
    totals = storage.totals(clock.now)
    assert (totals.sessions, totals.expired, totals.ended) == (1, 0, 1)
    clock.step(TTL + 1)
    totals = storage.totals(clock.now)
    assert totals._replace(expired=0) == Totals(ended=1)
    assert totals.expired == 4


def test_totals_name_the_largest_owners_if_asked(storage: Any, clock: HandClock) -> None:
    assert storage.totals(clock.now, 2).largest == ()
    fill(storage, clock)
    storage.set(owner("s.a"), "large", large(b"y" * 5000), ExpiryPolicy(TTL, clock).access())
    storage.end(owner("s.b"), ExpiryPolicy(TTL, clock).access())
    storage.clear(owner("u.ann"), ExpiryPolicy(TTL, clock).access())
    totals = storage.totals(clock.now, 2)
    found = [storage.find_owners(prefix, "largest", 1, clock.now).owners for prefix in ("s.", "u.")]
    assert list(totals.largest) == [*found[0], *found[1]]
    assert totals._replace(largest=()) == storage.totals(clock.now)
    assert [info.name for info in storage.totals(clock.now, 9).largest] == ["s.a", "u.bob"]


def test_the_first_owners_come_in_each_order(storage: Any, clock: HandClock) -> None:
    fill(storage, clock)
    storage.set(owner("s.a"), "large", large(b"y" * 5000), ExpiryPolicy(TTL / 2, clock).access())

    def names(prefix: str, order: str, limit: int = 10) -> list[str]:
        return [info.name for info in storage.find_owners(prefix, order, limit, clock.now).owners]

    assert names("", "newest") == list(reversed(NAMES))
    assert names("", "oldest") == list(NAMES)
    assert names("", "largest") == ["s.a", "h.other", "u.bob", "u.ann", "s.b"]
    assert names("", "expiring") == list(NAMES)
    assert names("s.", "largest") == ["s.a", "s.b"]
    assert names("", "newest", 2) == ["h.other", "u.bob"]
    assert names("u.x", "newest") == []


def test_what_is_said_of_an_owner_is_what_its_stat_says(storage: Any, clock: HandClock) -> None:
    fill(storage, clock)
    [info] = storage.find_owners("s.a", "newest", 1, clock.now).owners
    stat = storage.stat(owner("s.a"), ExpiryPolicy(TTL, clock).access())
    assert (info.name, info.created_at) == ("s.a", START + 10)
    assert (info.expires, info.nbytes, info.keys) == (stat.expires, stat.nbytes, stat.keys)


def test_the_first_owners_are_neither_expired_nor_ended_nor_without_values(storage: Any, clock: HandClock) -> None:
    fill(storage, clock)
    access = ExpiryPolicy(TTL, clock).access()
    storage.end(owner("s.b"), access)
    storage.clear(owner("u.ann"), access)
    storage.clear(owner("s.a"), access)
    found, total = storage.find_owners("", "oldest", 10, clock.now)
    assert [info.name for info in found] == ["s.a", "u.bob", "h.other"]
    assert total == 3
    clock.step(TTL + 1)
    assert storage.find_owners("", "oldest", 10, clock.now) == ([], 0)


ORDERS = get_args(Order)


@pytest.mark.parametrize("order", ORDERS)
def test_pages_hold_each_owner_once_though_all_are_equal_in_the_order(
    storage: Any, clock: HandClock, order: str
) -> None:
    access = ExpiryPolicy(TTL, clock).access()
    names = [f"s.{number * 7 % 11:02}" for number in range(11)]
    for name in names:
        storage.set(owner(name), "k", small(b"x"), access)
    pages = [storage.find_owners("", order, 3, clock.now, offset=offset) for offset in range(0, 12, 3)]
    assert [info.name for page in pages for info in page.owners] == sorted(names)
    assert [page.total for page in pages] == [11] * 4


@pytest.mark.parametrize("order", ORDERS)
def test_pages_far_from_the_first_are_in_the_same_order(storage: Any, clock: HandClock, order: str) -> None:
    fill(storage, clock)
    storage.set(owner("s.a"), "large", large(b"y" * 5000), ExpiryPolicy(TTL / 2, clock).access())
    whole = storage.find_owners("", order, 10, clock.now).owners
    assert storage.find_owners("", order, 5000, clock.now).owners == whole
    assert storage.find_owners("", order, 5000, clock.now, offset=2) == (whole[2:], 5)


def test_a_page_past_the_end_is_empty_and_says_how_many_there_are(storage: Any, clock: HandClock) -> None:
    assert storage.find_owners("", "newest", 10, clock.now, offset=5) == ([], 0)
    fill(storage, clock)
    for offset in (5, 6, 5000):
        assert storage.find_owners("", "newest", 10, clock.now, offset=offset) == ([], 5)
    assert storage.find_owners("s.", "newest", 10, clock.now, offset=2) == ([], 2)


SESSIONS = [owner(f"s.{rest}") for rest in ("aB_-9", "ab.c", "xs.y")]
USERS = [
    user_owner(user_id)
    for user_id in ("ann@example.com", "Bob 40", "100%", "1000", "a_b", "aXb", "[ab]*?", "Zoë", "c:\\d", "u.u", "\0")
]


@pytest.mark.parametrize(
    ("containing", "found"),
    [
        ("ANN", ["ann@example.com"]),
        ("@example", ["ann@example.com"]),
        ("40", ["Bob 40"]),  # "@" is quoted as "%40".
        ("0", ["Bob 40", "100%", "1000"]),
        ("b 4", ["Bob 40"]),
        ("0%", ["100%"]),
        ("%", ["100%"]),
        ("25", []),
        ("_", ["a_b"]),
        ("*", ["[ab]*?"]),
        ("?", ["[ab]*?"]),
        ("[ab]", ["[ab]*?"]),
        ("zoë", ["Zoë"]),
        ("ZOË", []),  # Only the cases of ASCII are ignored.
        ("\\", ["c:\\d"]),
        ("'", []),
        ("u", ["u.u"]),
        ("u.", ["u.u"]),
        ("\0", ["\0"]),
        ("\ud800", []),
        ("x" * 100_000, []),
        ("u.bob%2040", ["Bob 40"]),
        ("u.Bob%20", []),
    ],
)
def test_a_search_finds_user_ids_as_the_app_knows_them(
    storage: Any, clock: HandClock, containing: str, found: list[str]
) -> None:
    for each in USERS:
        storage.set(each, "k", small(b"x"), ExpiryPolicy(TTL, clock).access())
    page = storage.find_owners("u.", "oldest", 20, clock.now, containing=containing)
    assert {user_id_of(info.name) for info in page.owners} == set(found)
    assert page.total == len(found)


def test_a_search_finds_sessions_by_what_follows_their_prefix(storage: Any, clock: HandClock) -> None:
    for each in (*SESSIONS, owner("u.ab")):
        storage.set(each, "k", small(b"x"), ExpiryPolicy(TTL, clock).access())

    def found(containing: str, **page: int) -> list[str]:
        owners, total = storage.find_owners("s.", "newest", 20, clock.now, containing=containing, **page)
        assert total == len(owners) + page.get("offset", 0)
        return [info.name for info in owners]

    assert found("AB") == ["s.aB_-9", "s.ab.c"]
    assert found("AB", offset=1) == ["s.ab.c"]
    assert found("_-") == ["s.aB_-9"]
    assert found("s.ab_-9") == ["s.aB_-9"]
    assert found("s.") == found("s") == ["s.xs.y"]
    assert found("") == ["s.aB_-9", "s.ab.c", "s.xs.y"]


def test_the_space_that_is_used_is_known_where_there_is_any(storage: Any, clock: HandClock) -> None:
    fill(storage, clock)
    space = storage.space()
    assert space.used is None or space.used > 1000
    assert space.free is None or space.free > 0


def test_the_spread_of_nothing_is_zeros(storage: Any, clock: HandClock) -> None:
    assert storage.spread(clock.now) == Spread()


def test_the_spread_tells_how_sessions_differ_in_size_age_and_the_time_they_have_left(
    storage: Any, clock: HandClock
) -> None:
    for name, nbytes, ttl, step in (
        ("s.a", 50, 40 * DAY, 2 * DAY),
        ("s.b", 990, DAY, 3600.0),
        ("s.c", 20_000, 60.0, 0),
    ):
        storage.set(owner(name), "k", small(b"x" * nbytes), ExpiryPolicy(ttl, clock).access())
        clock.step(step)
    storage.set(owner("u.ann"), "k", small(b"x"), ExpiryPolicy(None, clock).access())
    storage.set(owner("h.other"), "k", small(b"x"), ExpiryPolicy(60.0, clock).access())
    # Under 1, 10, 100 kB and so on; and under 1 hour, 6 hours, 1 day, 7 and 31 days.
    assert storage.spread(clock.now) == Spread((2, 0, 1, 0, 0, 0, 0), (1, 1, 0, 1, 0, 0), (1, 0, 1, 0, 0, 1))
    clock.step(DAY)
    assert sum(storage.spread(clock.now).sizes) == 1
