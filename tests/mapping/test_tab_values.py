"""A browser tab's store is a mapping of its own within the visitor's, and ends by a TTL of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path

import pytest
from clocks import HandClock
from dash import Dash, Input, Output, html
from flask import Flask
from flask.testing import FlaskClient

from flask_dash_store import OutsideRequest, QuotaExceeded, UserStoreMiddleware, is_available, tab_store, user_store
from flask_dash_store.testing import user_store_transaction

TAB, OTHER_TAB = "1" * 32, "2" * 32
TAB_TTL = 100.0


class Visitor:
    """A visitor, whose tabs run what a test gives them within a request."""

    def __init__(self, app: Flask) -> None:
        self._todo: list[Callable[[], object]] = []
        self.client: FlaskClient = app.test_client()

        @app.get("/")
        def do() -> str:
            self.result = self._todo.pop()()
            return ""

    def do(self, todo: Callable[[], object], tab: str | None = TAB) -> object:
        self._todo.append(todo)
        headers = {} if tab is None else {"X-User-Store-Tab": tab}
        assert self.client.get("/", headers=headers).status_code == 200
        return self.result


@pytest.fixture
def app(url: str, clock: HandClock) -> Flask:
    app = Flask("tabs")
    app.secret_key = "k" * 32
    app.testing = True
    UserStoreMiddleware(app, url=url, clock=clock, ttl=10_000, tab_ttl=TAB_TTL, max_bytes=10_000)
    return app


@pytest.fixture
def visitor(app: Flask) -> Visitor:
    return Visitor(app)


def keep(**values: object) -> Callable[[], None]:
    return lambda: tab_store.update(values)


def kept() -> dict[str, object]:
    return dict(tab_store)


def test_it_is_a_mapping_with_the_methods_of_a_user_store(visitor: Visitor) -> None:
    def use() -> None:
        tab_store["list"] = [1]
        with tab_store.edit("list") as items:
            items.append(2)
        assert (tab_store["list"], tab_store.get("none"), "list" in tab_store) == ([1, 2], None, True)
        assert (tab_store.increment("n", 2), tab_store.setdefault("n", 5), tab_store.pop("n")) == (2, 2, 2)
        tab_store.update({"a": 1}, b=2)
        assert (list(tab_store), list(reversed(tab_store)), len(tab_store)) == (
            ["list", "a", "b"],
            ["b", "a", "list"],
            3,
        )
        assert tab_store == {"list": [1, 2], "a": 1, "b": 2}
        assert tab_store.popitem() == ("b", 2)
        with pytest.raises(LookupError), tab_store.transaction():
            tab_store["a"] = 5
            raise LookupError
        assert tab_store["a"] == 1
        del tab_store["a"]
        with pytest.raises(KeyError):
            tab_store["a"]
        assert [(each.key, each.kind) for each in tab_store.describe()] == [("list", "small")]
        assert 0 < tab_store.nbytes < user_store.nbytes
        assert tab_store.expires_at is not None
        assert "['list']" in repr(tab_store)
        tab_store.clear()
        assert (dict(tab_store), tab_store.expires_at, tab_store.nbytes) == ({}, None, 0)

    visitor.do(use)


def test_a_user_store_does_not_show_what_tabs_keep(visitor: Visitor) -> None:
    def use() -> None:
        user_store["mine"] = 1
        for number in range(20):
            tab_store[f"k{number}"] = number
        assert (list(user_store), list(reversed(user_store)), len(user_store)) == (["mine"], ["mine"], 1)
        assert dict(user_store) == user_store.copy() == user_store | {} == {"mine": 1}
        assert [each.key for each in user_store.describe()] == ["mine"]
        assert "['mine']" in repr(user_store)
        user_store["last"] = 2
        tab_store["later"] = 1
        assert user_store.popitem() == ("last", 2)
        assert user_store.popitem() == ("mine", 1)
        assert (len(user_store), bool(user_store), len(tab_store)) == (0, False, 21)
        with pytest.raises(KeyError):
            user_store.popitem()

    visitor.do(use)


def test_each_tab_has_its_own_which_other_tabs_and_visitors_leave(app: Flask, visitor: Visitor) -> None:
    visitor.do(keep(note="first"))
    visitor.do(keep(note="second", more=1), OTHER_TAB)
    visitor.do(lambda: tab_store.clear(), OTHER_TAB)
    assert visitor.do(kept) == {"note": "first"}
    assert visitor.do(kept, OTHER_TAB) == {}
    visitor.client = app.test_client()
    assert visitor.do(kept) == {}


def test_clear_of_the_user_store_removes_what_tabs_keep_too_and_they_can_begin_again(visitor: Visitor) -> None:
    def use() -> None:
        tab_store["note"] = 1
        user_store.clear()
        assert kept() == {}
        tab_store["note"] = 2

    visitor.do(use)
    assert visitor.do(kept) == {"note": 2}


def test_values_are_kept_while_the_tab_is_used_and_gone_after_its_ttl(visitor: Visitor, clock: HandClock) -> None:
    visitor.do(keep(note="first"))
    visitor.do(lambda: tab_store.set("short", 1, ttl=TAB_TTL + 20))
    for _ in range(3):
        clock.step(TAB_TTL - 1)
        assert visitor.do(lambda: tab_store["note"]) == "first"
    assert visitor.do(kept) == {"note": "first"}
    visitor.do(lambda: user_store.update(mine=1))
    clock.step(TAB_TTL)
    assert visitor.do(kept) == {}
    assert visitor.do(lambda: (tab_store.pop("note", None), len(tab_store))) == (None, 0)
    visitor.do(keep(other=1))
    assert visitor.do(kept) == {"other": 1}
    assert visitor.do(lambda: user_store["mine"]) == 1


def test_what_tabs_have_left_is_deleted_when_another_tab_begins_or_goes_on(visitor: Visitor, clock: HandClock) -> None:
    visitor.do(keep(large="x" * 5000))
    visitor.do(keep(note=1), OTHER_TAB)
    clock.step(TAB_TTL / 2)
    visitor.do(kept, OTHER_TAB)
    clock.step(TAB_TTL / 2)
    assert visitor.do(lambda: user_store.nbytes) > 5000
    visitor.do(kept, OTHER_TAB)
    assert visitor.do(lambda: user_store.nbytes) < 1000
    visitor.do(keep(large="x" * 5000))
    clock.step(TAB_TTL)
    visitor.do(keep(note=1), "3" * 32)
    assert visitor.do(lambda: user_store.nbytes) < 1000


def test_the_quota_is_the_visitors(visitor: Visitor) -> None:
    visitor.do(lambda: user_store.update(mine="x" * 5000))
    with pytest.raises(QuotaExceeded):
        visitor.do(keep(note="x" * 5000))
    assert visitor.do(kept) == {}


def test_values_follow_a_login_and_go_with_a_logout(visitor: Visitor) -> None:
    visitor.do(keep(note=1))
    visitor.do(lambda: user_store.regenerate(user_id="ada"))
    assert visitor.do(kept) == {"note": 1}
    visitor.do(lambda: user_store.destroy())
    assert visitor.do(kept) == {}


def test_the_command_line_finds_them_in_order(app: Flask, visitor: Visitor) -> None:
    visitor.do(keep(note=1))
    result = app.test_cli_runner().invoke(args=["user-store", "check"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("tab", [None, "", "x" * 32, "1" * 31, "1" * 33, "\u0661" * 16])
def test_where_there_is_no_tab_the_error_says_what_to_do(visitor: Visitor, tab: str | None) -> None:
    with pytest.raises(OutsideRequest, match="use user_store, which all of a visitor's tabs share"):
        visitor.do(kept, tab)


def test_outside_of_a_request_there_is_no_tab() -> None:
    with pytest.raises(OutsideRequest, match="There is no browser tab here"):
        tab_store.get("note")


def test_a_visitors_store_shows_the_same_to_a_test(app: Flask, visitor: Visitor, tmp_path: Path) -> None:
    visitor.do(keep(note=1))
    with user_store_transaction(visitor.client) as store:
        assert dict(store) == {}


def test_a_page_that_loads_after_an_async_callback_of_another_tab_has_its_own_tab_store(app: Flask) -> None:
    board = Dash("board", server=app, use_async=True)
    board.layout = lambda: html.P(tab_store.get("filter", "none") if is_available() else "", id="out")

    @board.callback(Output("out", "children"), Input("in", "value"))
    async def keep_filter(value: str) -> str:
        tab_store["filter"] = value
        return value

    client = app.test_client()
    body = {
        "output": "out.children",
        "outputs": {"id": "out", "property": "children"},
        "inputs": [{"id": "in", "property": "value", "value": "red"}],
        "changedPropIds": ["in.value"],
    }

    def load(tab: str) -> str:
        text: str = client.get("/_dash-layout", headers={"X-User-Store-Tab": tab}).json["props"]["children"]
        return text

    def visit() -> list[str]:
        before = load(TAB)
        client.post("/_dash-update-component", json=body, headers={"X-User-Store-Tab": TAB})
        return [before, load(TAB), load(OTHER_TAB)]

    # As in a thread of its own, so that no later test finds what Dash leaves in the context.
    assert copy_context().run(visit) == ["none", "red", "none"]
