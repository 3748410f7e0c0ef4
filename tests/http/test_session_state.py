"""Which session id a response brings: a test for each row of the table in session_state.py."""

from __future__ import annotations

from itertools import product

import pytest

from flask_dash_store.owner import Owner, new_session_id, session_owner
from flask_dash_store.store.session_state import Cookie, Fate, SessionState, Use

ID = new_session_id()
USES = [Use.NONE, Use.READ, Use.WRITTEN]
NOW = 2_000.0

NOTHING, PRESENT, UNKNOWN = "nothing", "the present id", "an id that nothing is stored under"
EXPIRED = "a cookie to be forgotten"

Row = tuple[list[Cookie], list[Fate], list[Use], str]

CAME = [Cookie.CURRENT, Cookie.STALE]
NOT_BARRED = [Cookie.MISSING, *CAME]

ROWS: list[Row] = [
    ([Cookie.FOREIGN, Cookie.UNREACHABLE, Cookie.REFUSED], list(Fate), USES, NOTHING),
    ([Cookie.WITHHELD], [Fate.NEW], [Use.WRITTEN], PRESENT),
    ([Cookie.WITHHELD], [Fate.NEW], [Use.NONE, Use.READ], NOTHING),
    ([Cookie.WITHHELD], [each for each in Fate if each is not Fate.NEW], USES, NOTHING),
    (NOT_BARRED, [Fate.INHERITED], USES, NOTHING),
    (NOT_BARRED, [Fate.ENDED], USES, NOTHING),
    (NOT_BARRED, [Fate.DESTROYED], USES, UNKNOWN),
    (NOT_BARRED, [Fate.NEW], [Use.READ, Use.WRITTEN], PRESENT),
    (NOT_BARRED, [Fate.SUCCEEDED], USES, PRESENT),
    (CAME, [Fate.RENEWED], USES, PRESENT),
    ([Cookie.CURRENT], [Fate.KEPT], USES, NOTHING),
    ([Cookie.STALE], [Fate.KEPT], [Use.NONE], NOTHING),
    ([Cookie.STALE], [Fate.KEPT], [Use.READ, Use.WRITTEN], PRESENT),
]

CASES = [
    (cookie, fate, use, expected)
    for cookies, fates, uses, expected in ROWS
    for cookie, fate, use in product(cookies, fates, uses)
]


def sent(cookie: Cookie, fate: Fate, use: Use, is_eager: bool = True, has_ended: bool = False) -> str:
    state = SessionState(session_owner(ID))
    state.switch_to(fate, ID, 1_000.0, lifetime=100.0)
    state.cookie, state.use = cookie, use
    issue = state.issue(is_eager, lambda owner: has_ended and owner == session_owner(ID), lambda: NOW)
    if issue is None:
        return NOTHING
    if issue.session_id is None:
        return EXPIRED
    if issue.session_id == ID:
        assert issue.issued_at == 1_000.0  # so that a cookie which is issued again does not extend the lifetime
        return PRESENT
    assert issue.issued_at == NOW
    return UNKNOWN


@pytest.mark.parametrize(("cookie", "fate", "use", "expected"), CASES)
@pytest.mark.parametrize("is_eager", [False, True])
def test_the_response_brings_what_the_table_says(
    cookie: Cookie, fate: Fate, use: Use, expected: str, is_eager: bool
) -> None:
    assert sent(cookie, fate, use, is_eager) == expected


@pytest.mark.parametrize(("is_eager", "expected"), [(True, PRESENT), (False, NOTHING)])
def test_a_new_visitor_who_has_used_nothing_gets_one_where_cookies_are_eager(is_eager: bool, expected: str) -> None:
    assert sent(Cookie.MISSING, Fate.NEW, Use.NONE, is_eager) == expected


@pytest.mark.parametrize("cookie", CAME)
@pytest.mark.parametrize("use", USES)
def test_the_cookie_of_an_emptied_session_is_forgotten_unless_cookies_are_eager(cookie: Cookie, use: Use) -> None:
    assert sent(cookie, Fate.EMPTIED, use, is_eager=False) == EXPIRED
    assert sent(cookie, Fate.EMPTIED, use, is_eager=True) == NOTHING
    assert sent(cookie, Fate.EMPTIED, use, is_eager=False, has_ended=True) == NOTHING


@pytest.mark.parametrize("cookie", NOT_BARRED)
@pytest.mark.parametrize(
    ("fate", "expected"),
    [(Fate.SUCCEEDED, NOTHING), (Fate.RENEWED, NOTHING), (Fate.NEW, PRESENT), (Fate.DESTROYED, UNKNOWN)],
)
def test_an_id_that_requests_share_is_not_sent_once_another_of_them_has_ended_it(
    cookie: Cookie, fate: Fate, expected: str
) -> None:
    assert sent(cookie, fate, Use.READ, has_ended=True) == expected
    assert sent(Cookie.STALE, Fate.KEPT, Use.READ, has_ended=True) == NOTHING


def test_the_store_of_a_user_id_has_no_id_to_send() -> None:
    def is_not_asked(_: Owner) -> bool:
        raise AssertionError

    assert SessionState(Owner("u.ada")).issue(True, is_not_asked, lambda: NOW) is None


def test_the_table_in_the_source_has_the_rows_that_are_tested() -> None:
    covered = {(cookie, fate, use) for cookie, fate, use, _ in CASES}
    possible = set(product(Cookie, Fate, USES))
    # No session is kept or renewed that no cookie came with; of a new one that is not used, and of an emptied one,
    # eagerness decides.
    left = possible - covered
    assert {(cookie, fate) for cookie, fate, _ in left} == {
        (Cookie.MISSING, Fate.KEPT),
        (Cookie.MISSING, Fate.RENEWED),
        *((cookie, fate) for cookie in NOT_BARRED for fate in (Fate.NEW, Fate.EMPTIED)),
    }
