"""What ``Changed`` promises beside the browser: who is told of which writes, and what a poll costs and says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import apsw
import pytest
from clocks import HandClock
from dash import Dash, Input, Output, html
from dash._callback_context import context_value
from dash._utils import AttributeDict
from flask.testing import FlaskClient

from flask_dash_store import Changed, InvalidKey, InvalidKeyType, Key, UserStore, UserStoreMiddleware, user_store
from flask_dash_store.store.base import write_listeners
from flask_dash_store.testing import user_store_transaction

POLL = "/_user-store/changed"
WATCHED = ["cart", "n", "wish list"]
CART = '["cart"]'

Write = Callable[[UserStore], object]
Answer = dict[str, Any]


def pop_none(store: UserStore) -> None:
    assert store.pop("missing", None) is None


def edit(store: UserStore) -> None:
    with store.edit("cart") as cart:
        cart.append(1)


def write_in_transaction(store: UserStore) -> None:
    with store.transaction():
        store["cart"] = 1
        with store.transaction():
            store["cart"] = 2


def roll_back(store: UserStore) -> None:
    with pytest.raises(LookupError), store.transaction():
        store["cart"] = [3]
        raise LookupError


def roll_back_to_savepoint(store: UserStore) -> None:
    with store.transaction():
        roll_back(store)


CHANGES: dict[str, Write] = {
    "[]=": lambda store: store.__setitem__("cart", 1),
    "set": lambda store: store.set("cart", 1, ttl=5),
    "update": lambda store: store.update(other=1, cart=2),
    "|=": lambda store: store.__ior__({"cart": 2}),
    "del": lambda store: store.__delitem__("cart"),
    "pop": lambda store: store.pop("cart"),
    "popitem": lambda store: store.popitem(),
    "clear": lambda store: store.clear(),
    "edit": edit,
    "destroy": lambda store: store.destroy(),
    "transaction": write_in_transaction,
}
NO_CHANGES: dict[str, Write] = {
    "another key": lambda store: store.update(other=1),
    "a key that is missing": pop_none,
    "setdefault of a key that is there": lambda store: store.setdefault("cart", 5),
    "a rollback": roll_back,
    "a rollback to a savepoint": roll_back_to_savepoint,
    "a read": lambda store: dict(store),
    "the same value": lambda store: store.update(cart=[0]),
}


class Site:
    """A Dash app, whose one callback does what a test gives it."""

    def __init__(self, folder: Path, clock: HandClock, **options: Any) -> None:
        self.todo: Write = len
        self.app = app = Dash("changed")
        app.server.secret_key = "k" * 32
        app.server.testing = True
        self.stores = UserStoreMiddleware(app, url=f"sqlite:///{folder}/s.sqlite", clock=clock, ttl=1000, **options)
        app.layout = html.Div([html.Button(id="button"), html.Div(id="text")])

        @app.callback(
            Output("text", "children"), Input("button", "n_clicks"), Changed(*WATCHED), Changed("cart"), Changed(any)
        )
        def call_back(*_: Any) -> str:
            self.todo(user_store)
            return "done"

        self.client: FlaskClient = app.server.test_client()

    def call_back(self, todo: Write) -> dict[str, Any]:
        """What the response to a callback brings to the page beside its output."""
        self.todo = todo
        inputs = [
            {"id": "button", "property": "n_clicks", "value": 1},
            *(
                {"id": watch.store_id, "property": "data", "value": self.versions()[watch.name]}
                for watch in (Changed(*WATCHED), Changed("cart"), Changed(any))
            ),
        ]
        body = {
            "output": "text.children",
            "outputs": {"id": "text", "property": "children"},
            "inputs": inputs,
            "changedPropIds": ["button.n_clicks"],
        }
        response = self.client.post("/_dash-update-component", json=body)
        assert response.status_code == 200
        assert response.json["response"] == {"text": {"children": "done"}}
        side_update: dict[str, Any] = response.json.get("sideUpdate", {})
        return side_update

    def poll(self) -> Answer:
        answer: Answer = self.client.get(POLL).json
        return answer

    def versions(self) -> dict[str, str | None]:
        versions: dict[str, str | None] = self.poll()["versions"]
        return versions

    def layout(self) -> str:
        return self.client.get("/_dash-layout").text


@pytest.fixture
def site(tmp_path: Path, clock: HandClock) -> Site:
    site = Site(tmp_path, clock)
    site.client.get("/")
    site.call_back(lambda store: store.update(cart=[0]))
    return site


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_change_comes_with_the_response_and_is_what_the_next_poll_says(site: Site, change: Write) -> None:
    before = site.versions()[CART]
    told = site.call_back(change)
    now = site.versions()[CART]
    assert told[str(Changed("cart")).removesuffix(".data")] == {"data": now}
    assert now != before
    assert told[str(Changed(*WATCHED)).removesuffix(".data")] == {"data": site.versions()[Changed(*WATCHED).name]}


@pytest.mark.parametrize("todo", NO_CHANGES.values(), ids=NO_CHANGES)
def test_what_changes_no_key_that_is_watched_brings_nothing_new(site: Site, todo: Write) -> None:
    before = site.versions()[CART]
    told = site.call_back(todo)
    assert told.get(str(Changed("cart")).removesuffix(".data"), {"data": before}) == {"data": before}
    assert str(Changed(*WATCHED)).removesuffix(".data") not in told
    assert site.versions()[CART] == before


def test_listeners_are_told_after_the_commit_and_not_of_what_was_rolled_back(site: Site) -> None:
    told: list[object] = []
    write_listeners.append(lambda _, keys: told.append(keys and list(keys)))
    store = site.stores.for_user("ada")
    try:
        with store.transaction():
            store["cart"] = 1
            assert store.increment("n") == 1
            assert told == []
        assert told == [["cart"], ["n"]]
        roll_back(store)
        roll_back_to_savepoint(store)
        store.clear()
        store.setdefault("n", 1)
        assert told[2:] == [None, ["n"]]
    finally:
        write_listeners.pop()


@pytest.mark.parametrize("todo", [lambda store: store.update(cart=1), lambda store: store.clear()])
def test_of_several_writes_the_page_learns_the_last_versions(site: Site, todo: Write) -> None:
    def write(store: UserStore) -> None:
        before = store["cart"]
        for number in range(3):
            store["n"] = number
        todo(store)
        store["wish list"] = ["tent"]
        store["cart"] = before
        del store["wish list"]
        store.pop("n", None)

    told = site.call_back(write)
    watches = [Changed(*WATCHED), Changed("cart"), Changed(any)]
    assert told == {str(each).removesuffix(".data"): {"data": site.versions()[each.name]} for each in watches}


def test_a_page_that_has_been_told_of_a_change_is_told_when_it_is_taken_back(site: Site) -> None:
    def write(store: UserStore) -> None:
        store["n"] = 1
        del store["n"]

    told = site.call_back(write)
    assert told[str(Changed(any)).removesuffix(".data")] == {"data": site.versions()["any"]}


def test_a_write_in_a_callback_costs_as_much_of_many_keys_as_of_few(site: Site) -> None:
    def calls_with(keys: int) -> int:
        calls: list[str] = []

        def write(store: UserStore) -> None:
            store.update({f"key {number}": 0 for number in range(keys)})
            sys.setprofile(lambda _, event, __: calls.append(event))
            for number in range(5):
                store[f"key {number}"] = 1
            sys.setprofile(None)

        site.call_back(write)
        return len(calls)

    few = calls_with(5)
    assert calls_with(500) < 1.1 * few


def test_the_store_of_a_user_id_changes_nothing_for_the_visitor(site: Site) -> None:
    assert site.call_back(lambda _: site.stores.for_user("ada").update(cart=5)) == {}


def test_a_job_that_opens_the_visitors_store_in_a_callback_changes_it(site: Site) -> None:
    assert site.call_back(lambda store: site.stores.open(store.job_handle()).update(cart=5))


def test_a_layout_has_the_versions_that_a_poll_says(site: Site) -> None:
    layout = site.layout()
    assert str(site.versions()[CART]) in layout
    assert site.client.get("/_dash-layout").headers["Vary"] == "Cookie"


def test_a_key_that_expires_is_a_change(site: Site, clock: HandClock) -> None:
    site.call_back(lambda store: store.set("cart", 1, ttl=5))
    before = site.versions()[CART]
    clock.step(5)
    assert before is not None
    assert site.versions()[CART] is None


def test_a_poll_is_one_select_and_no_use_of_the_session(
    statements: list[str], tmp_path: Path, clock: HandClock
) -> None:
    site = Site(tmp_path, clock)
    site.client.get("/")
    site.call_back(lambda store: store.update(cart=1))
    site.versions()
    statements.clear()
    clock.step(999)
    response = site.client.get(POLL)
    assert statements == ["SELECT"]
    assert response.headers.getlist("Set-Cookie") == []
    assert response.headers["Vary"] == "Cookie"
    clock.step(1)
    assert site.versions()[CART] is None


def test_polls_keep_no_session_alive_though_the_app_looks_at_the_store_in_each_request(
    tmp_path: Path, clock: HandClock
) -> None:
    site = Site(tmp_path, clock, lifetime=5000)
    site.app.server.before_request(lambda: user_store.get("user") and None)
    site.client.get("/")
    site.call_back(lambda store: store.update(cart=1))
    for _ in range(3):
        clock.step(400)
        response = site.client.get(POLL)
        assert response.headers.getlist("Set-Cookie") == []
    assert site.versions()[CART] is None


def test_a_write_in_a_view_is_one_statement_though_a_callbacks_context_is_still_on_the_thread(
    statements: list[str], tmp_path: Path, clock: HandClock
) -> None:
    site = Site(tmp_path, clock)
    site.app.server.get("/write")(lambda: str(user_store.set("cart", 2)))
    site.client.get("/")
    site.call_back(lambda store: store.update(cart=1))
    statements.clear()

    def call() -> None:  # On Flask, Dash leaves it there after an async callback.
        context_value.set(AttributeDict(dash_response=None, input_values={}, updated_props={}))
        assert site.client.get("/write").text == "None"

    copy_context().run(call)
    assert statements == ["UPDATE"]


def test_a_poll_without_a_cookie_begins_no_session(site: Site) -> None:
    stranger = site.app.server.test_client()
    response = stranger.get(POLL)
    assert response.json["versions"][CART] is None
    assert "Set-Cookie" not in response.headers
    assert "Set-Cookie" in stranger.get("/").headers


def test_after_a_login_elsewhere_a_poll_with_the_old_cookie_says_nothing_until_it_is_too_late(
    site: Site, clock: HandClock
) -> None:
    with user_store_transaction(site.client) as store:
        cookie = site.client.get_cookie("user_store")
        store.regenerate(user_id="ada")
    assert cookie is not None
    assert site.versions()[CART] is not None
    site.client.set_cookie("user_store", cookie.value)
    assert site.poll() == {"versions": None}
    clock.step(6)
    assert site.versions()[CART] is None


def test_a_version_is_no_part_of_the_mac_and_needs_the_secret(tmp_path: Path, clock: HandClock) -> None:
    versions = []
    for name, secret in (("a", "k" * 32), ("a", "k" * 32), ("b", "l" * 32)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        site = Site(folder, clock)
        site.app.server.secret_key = secret
        site.client.set_cookie("user_store", versions[0][0]) if name == "a" and versions else site.client.get("/")
        site.call_back(lambda store: store.update(cart=[0]))
        versions.append((site.client.get_cookie("user_store").value, site.versions()[CART]))
        row = apsw.Connection(f"{folder}/s.sqlite").execute('SELECT value FROM "values"').fetchone()[0]
        assert versions[-1][1] not in row.hex()
    assert versions[0] == versions[1]
    assert versions[0][1] != versions[2][1]


@pytest.mark.parametrize("with_middleware", [False, True])
def test_an_app_that_watches_nothing_in_the_same_process_is_as_it_was(site: Site, with_middleware: bool) -> None:
    app = Dash("without")
    if with_middleware:
        app.server.secret_key = "k" * 32
        UserStoreMiddleware(app, url="memory://")
    app.layout = html.Div(id="only this")

    @app.callback(Output("only this", "children"), Input("only this", "n_clicks"))
    def call_back(_: Any) -> str:
        return "done"

    client = app.server.test_client()
    assert client.get("/_dash-layout").json == app.layout.to_plotly_json() | {
        "props": {"children": None, "id": "only this"}
    }
    assert client.get(POLL).json == {}
    assert site.versions().keys() == {CART, Changed(*WATCHED).name, "any"}
    body = {
        "output": "only this.children",
        "outputs": {"id": "only this", "property": "children"},
        "inputs": [{"id": "only this", "property": "n_clicks", "value": 1}],
        "changedPropIds": [],
    }
    assert client.post("/_dash-update-component", json=body).json["response"] == {"only this": {"children": "done"}}


PAGES = """
from dash import Dash, page_container
from flask_dash_store import UserStoreMiddleware
app = Dash(__name__, use_pages=True)
app.server.secret_key = "k" * 32
UserStoreMiddleware(app, url="memory://")
app.layout = page_container
client = app.server.test_client()
client.get("/")
print(client.get("/_user-store/changed").json)
"""

PAGE = """
from dash import Output, callback, html, register_page
from flask_dash_store import Changed
register_page(__name__, path="/")
layout = html.Div(id="text")
callback(Output("text", "children"), Changed("cart"))(str)
"""


def test_a_page_may_be_what_imports_it_first(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PAGES)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "cart.py").write_text(PAGE)
    done = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "{'versions': {'[\"cart\"]': None}}\n", done.stderr


def test_keys_are_given_one_by_one_or_as_a_list_or_all_of_them() -> None:
    assert Changed("b", "a") == Changed(["a", "b"]) == Changed(("a",), "b")
    assert Changed("a") != Changed("a", "b")
    assert (repr(Changed("b", "a")), repr(Changed(any))) == ("Changed('a', 'b')", "Changed(any)")
    assert Changed("any") != Changed(any)
    assert Key("cart", default=list).changed == Changed("cart")
    for wrong in ((), ([],), ("a/b",), ("",)):
        with pytest.raises(InvalidKey):
            Changed(*wrong)
    for wrong in ((1,), (None,), (any, "a"), (["a", 1],)):
        with pytest.raises(InvalidKeyType):
            Changed(*wrong)
