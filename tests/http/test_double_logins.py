"""Logging in and out twice from one id, on each backend, over a gunicorn of two workers.

A browser that drops a response comes again with the id that it knows. The same user's login goes on with the session
that the first one has begun; anyone else who comes with that id, such as an attacker who planted it (session
fixation, CWE-384), gets an empty session.

Promises: docs/security.md, "Clicked twice, or lost on the way" and "The end of a session".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from http_visitor import Answer, Visitor, ask_both_workers
from servers import Port, gunicorn, running
from urls import URLS

APPS = Path(__file__).parents[1] / "support" / "apps"

GRACE = 5
AT_ONCE = 6

BEFORE = {"cart": ["book"]}  # what the victim has stored when they log in


class Site:
    """A gunicorn, and the clock of its app."""

    def __init__(self, port: int, clock_offset: Path) -> None:
        self.port = port
        self._clock_offset = clock_offset
        self._offset = 0.0

    def step_clock(self, seconds: float) -> None:
        self._offset += seconds
        # In one step, so that no worker reads half of it.
        other = self._clock_offset.with_suffix(".new")
        other.write_text(str(self._offset))
        other.replace(self._clock_offset)


@pytest.fixture(scope="module", params=URLS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, port = tmp_path_factory.mktemp("logins"), Port()
    clock_offset = folder / "clock-offset"
    clock_offset.write_text("0")
    settings = {
        "FLASK_SECRET_KEY": "only for these tests",
        "FLASK_USER_STORE_URL": URLS[request.param](folder),
        "CLOCK_OFFSET": str(clock_offset),
    }
    with running(gunicorn("login_app:server", port.number, APPS), port.number, folder, settings):
        yield Site(port.number, clock_offset)
    port.close()


@pytest.fixture
def visitor(site: Site) -> Visitor:
    """One who has put a book into the cart, and is not logged in."""
    visitor = Visitor(site.port)
    visitor.do("PUT", "/cart", BEFORE["cart"])
    return visitor


def with_same_cookie(visitor: Visitor) -> Visitor:
    """Another request, or another browser, that knows the visitor's present cookie."""
    return Visitor(visitor.port, visitor.cookie)


def session_id(visitor: Visitor) -> str:
    assert visitor.cookie is not None
    return visitor.cookie.partition(".")[0]


def at_once(visitor: Visitor, method: str, path: str) -> tuple[list[Visitor], list[Answer]]:
    """Six requests with the visitor's cookie, side by side."""
    visitors = [with_same_cookie(visitor) for _ in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return visitors, list(threads.map(lambda each: each.ask(method, path), visitors))


# Twice


@pytest.mark.parametrize("path", ["/login/ann", "/login-twice/ann"])
def test_six_logins_of_a_user_at_once_bring_one_id_and_lose_nothing(visitor: Visitor, path: str) -> None:
    before = session_id(visitor)
    visitors, answers = at_once(visitor, "POST", path)
    assert [answer.status for answer in answers] == [200] * AT_ONCE
    assert all(answer.set_cookie for answer in answers)
    ids = {session_id(each) for each in visitors}
    assert len(ids) == 1
    assert before not in ids
    assert [each.values() for each in visitors] == [BEFORE | {"user": "ann"}] * AT_ONCE


def test_six_regenerates_at_once_are_answered_with_a_cookie_each_and_one_has_the_values(visitor: Visitor) -> None:
    visitors, answers = at_once(visitor, "POST", "/regenerate")
    assert [answer.status for answer in answers] == [200] * AT_ONCE
    assert all(answer.set_cookie for answer in answers)
    assert sorted((each.values() for each in visitors), key=len) == [{}] * (AT_ONCE - 1) + [BEFORE]
    assert len({session_id(each) for each in visitors}) == AT_ONCE


def test_six_logouts_at_once_are_answered_with_a_cookie_each_that_takes_values(visitor: Visitor) -> None:
    visitor.do("POST", "/login/ann")
    visitors, answers = at_once(visitor, "POST", "/logout")
    assert [answer.status for answer in answers] == [200] * AT_ONCE
    assert all(answer.set_cookie for answer in answers)
    for each in visitors:
        assert each.values() == {}
        each.do("PUT", "/key", 1)
        assert each.values() == {"key": 1}


@pytest.mark.parametrize("first", ["/login/ann", "/regenerate", "/logout"])
@pytest.mark.parametrize("second", ["/login/ben", "/regenerate", "/logout"])
def test_each_login_and_logout_on_an_ended_session_brings_a_session_that_works_and_revives_nothing(
    visitor: Visitor, first: str, second: str
) -> None:
    late = with_same_cookie(visitor)
    visitor.do("POST", first)
    left = visitor.values()
    assert late.ask("POST", second).set_cookie is not None
    late.do("PUT", "/key", 1)
    assert late.values() == {"key": 1} | ({"user": "ben"} if second == "/login/ben" else {})
    assert visitor.values() == left


# What an attacker gets who planted the id with which the victim comes


def attacker_logs_in(attacker: Visitor) -> None:
    attacker.do("POST", "/login/mallory")


def attacker_regenerates(attacker: Visitor) -> None:
    attacker.do("POST", "/regenerate")


def attacker_logs_out(attacker: Visitor) -> None:
    attacker.do("POST", "/logout")


def attacker_reads(attacker: Visitor) -> None:
    attacker.values()


ATTACKS: list[Callable[[Visitor], None]] = [attacker_logs_in, attacker_regenerates, attacker_logs_out, attacker_reads]


@pytest.mark.parametrize("after", [0, GRACE - 1, GRACE + 1])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attacker_who_planted_the_id_gets_nothing_after_the_victims_login(
    site: Site, attack: Callable[[Visitor], None], after: float
) -> None:
    attacker = Visitor(site.port)
    attacker.values()
    victim = with_same_cookie(attacker)
    victim.do("PUT", "/cart", BEFORE["cart"])
    victim.do("POST", "/login/victim")
    victim.do("PUT", "/card", "4111")
    site.step_clock(after)

    attack(attacker)

    assert attacker.values() == ({"user": "mallory"} if attack is attacker_logs_in else {})
    assert session_id(attacker) != session_id(victim)
    assert victim.values() == BEFORE | {"user": "victim", "card": "4111"}
    for answer in ask_both_workers(attacker, "GET", "/"):
        assert not {"cart", "card"} & answer.body["values"].keys()


@pytest.mark.parametrize("after", [0, GRACE - 1, GRACE + 1])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attacker_who_planted_the_id_and_was_faster_gets_nothing_either(
    site: Site, attack: Callable[[Visitor], None], after: float
) -> None:
    attacker = Visitor(site.port)
    attacker.do("PUT", "/planted", 1)
    planted = with_same_cookie(attacker)
    victim = with_same_cookie(attacker)
    attack(attacker)
    site.step_clock(after)

    victim.do("POST", "/login/victim")
    victim.do("PUT", "/card", "4111")

    for each in (attacker, planted):
        assert not {"card", "victim"} & {*each.values(), each.values().get("user")}
        assert session_id(each) != session_id(victim)
    expected = {"user": "victim", "card": "4111"} | ({"planted": 1} if attack is attacker_reads else {})
    assert victim.values() == expected


def test_an_attacker_and_the_victim_who_log_in_at_once_never_share_a_session(site: Site) -> None:
    for _ in range(10):
        planted = Visitor(site.port)
        planted.do("PUT", "/planted", 1)
        users = {name: with_same_cookie(planted) for name in ("victim", "mallory")}
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda name, users=users: users[name].do("POST", f"/login/{name}"), users))
        assert len({session_id(each) for each in users.values()}) == 2
        assert {name: each.values()["user"] for name, each in users.items()} == {name: name for name in users}
        assert sum("planted" in each.values() for each in users.values()) == 1


# An id that is dead


@pytest.mark.parametrize("end", ["/login/ann", "/regenerate", "/logout"])
def test_a_dead_id_is_refused_for_five_seconds_and_replaced_after_them(site: Site, visitor: Visitor, end: str) -> None:
    late = with_same_cookie(visitor)
    visitor.do("POST", end)
    dead = session_id(late)

    site.step_clock(GRACE - 2)
    write = late.ask("PUT", "/key", 1)
    assert (write.status, write.body["error"], write.set_cookie) == (409, "Conflict", None)
    read = late.ask("GET", "/")
    assert (read.body["values"], read.set_cookie) == ({}, None)

    site.step_clock(3)
    late.do("PUT", "/key", 2)
    assert late.values() == {"key": 2}
    assert session_id(late) not in (dead, session_id(visitor))


# A user's sessions


def names_in(*visitors: Visitor) -> list[Any]:
    return [visitor.values().get("user") for visitor in visitors]


def test_a_users_sessions_are_listed_once_each_and_a_double_click_makes_no_other(site: Site, visitor: Visitor) -> None:
    user = f"lister-{session_id(visitor)[:8]}"
    second_click, elsewhere = with_same_cookie(visitor), Visitor(site.port)
    for each in (visitor, second_click, elsewhere):
        each.do("POST", f"/login/{user}")
    [(created, used, nbytes), (created_later, *_)] = visitor.do("GET", f"/sessions/{user}")["sessions"]
    assert created <= created_later
    assert used >= created
    assert nbytes > len("cart") + len("book")
    elsewhere.do("POST", "/logout")
    assert len(visitor.do("GET", f"/sessions/{user}")["sessions"]) == 1


def test_log_out_everywhere_else_ends_the_users_other_sessions_in_all_workers(site: Site, visitor: Visitor) -> None:
    user = f"ender-{session_id(visitor)[:8]}"
    phone, tablet, other_user = Visitor(site.port), Visitor(site.port), Visitor(site.port)
    for each in (visitor, phone, tablet):
        each.do("POST", f"/login/{user}")
    other_user.do("POST", f"/login/{user}-junior")

    assert visitor.do("POST", f"/end-other-sessions/{user}")["ended"] == 2

    for ended in (phone, tablet):
        assert {bool(answer.body["values"]) for answer in ask_both_workers(ended, "GET", "/")} == {False}
    assert names_in(visitor, other_user) == [user, f"{user}-junior"]
    assert len(visitor.do("GET", f"/sessions/{user}")["sessions"]) == 1
    assert other_user.do("POST", f"/end-sessions/{user}")["ended"] == 1
    assert names_in(visitor) == [None]


def test_logging_out_everywhere_ends_a_session_too_that_gets_another_id_meanwhile(site: Site) -> None:
    for number in range(5):
        user = f"racer-{number}-{site.port}"
        devices = [Visitor(site.port) for _ in range(4)]
        for device in devices:
            device.do("POST", f"/login/{user}")
        before = [with_same_cookie(device) for device in devices]
        with ThreadPoolExecutor(2) as threads:
            ending = threads.submit(Visitor(site.port).do, "POST", f"/end-sessions/{user}")
            threads.submit(devices[0].ask, "POST", "/regenerate").result()
            ending.result()
        assert names_in(*before) == [None] * 4
        assert names_in(*devices) == [None] * 4
