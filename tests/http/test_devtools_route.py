"""Dash's dev tools show the visitor's keys to the app's own page, where they are on, and never a value.

Promise: docs/security.md, "Dash's dev tools".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from clocks import HandClock
from dash import Dash, hooks, html
from flask import g
from flask.testing import FlaskClient

from flask_dash_store import UserStoreMiddleware

ROUTE = "/board/_user-store"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}

Make = Callable[..., Dash]


@pytest.fixture
def make(tmp_path: Path, clock: HandClock) -> Iterator[Make]:
    """Makes apps; Dash's hooks are those of the whole process, and as they were afterwards."""

    def make(debug: bool, **options: Any) -> Dash:
        app = Dash("board", url_base_pathname="/board/")
        app.server.secret_key = "k" * 32
        app.server.add_url_rule("/board/write", "write", lambda: g.user_store.update(cart="a secret") or "ok")
        app.layout = html.Div()
        middleware = UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite", clock=clock, **options)
        middleware.for_user("ada")["note"] = 1  # The storage may be open before app.run() turns the dev tools on.
        app.enable_dev_tools(debug, dev_tools_hot_reload=False)
        return app

    lists = hooks._js_dist, hooks._ns["dev_tools"]  # noqa: SLF001
    before = [list(each) for each in lists]
    yield make
    for each, was in zip(lists, before, strict=True):
        each[:] = was


def ask(client: FlaskClient, headers: Any = OWN_PAGE, **body: Any) -> Any:
    return client.post(ROUTE, json=body, headers=headers)


def keys(client: FlaskClient) -> list[str]:
    return [value["key"] for value in ask(client).json["values"]]


def test_without_dev_tools_there_is_no_route_and_no_script(make: Make) -> None:
    app = make(debug=False)
    client = app.server.test_client()
    assert "devtools" not in client.get("/board/").text
    assert ask(client).status_code in (404, 405)
    assert ROUTE not in {rule.rule for rule in app.server.url_map.iter_rules()}


def test_with_them_the_page_has_the_script_and_no_app_has_it_twice(make: Make) -> None:
    for _ in range(2):
        client = make(debug=True).server.test_client()
        page = client.get("/board/").text
        [script] = [each for each in page.split('"') if "devtools" in each and each.startswith("/board/")]
        assert "UserStoreDevtool" in client.get(script).text
        assert page.count("UserStoreDevtool") == 1


def test_in_a_dash_without_that_hook_nothing_is_added(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(hooks), "devtool")  # as in Dash 3.1
    app = make(debug=True)
    assert "devtools" not in app.server.test_client().get("/board/").text
    assert ROUTE not in {rule.rule for rule in app.server.url_map.iter_rules()}


def test_each_visitor_is_shown_their_own_keys_and_no_value(make: Make) -> None:
    app = make(debug=True)
    ada, ben = app.server.test_client(), app.server.test_client()
    ada.get("/board/write")
    ben.get("/board/")
    answer = ask(ada)
    [value] = answer.json["values"]
    assert value == {"key": "cart", "nbytes": value["nbytes"], "kind": "small", "expires_at": None}
    assert "secret" not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert keys(ben) == []
    ask(ben, do="clear")
    assert keys(ada) == ["cart"]


def test_a_key_is_deleted_and_all_are(make: Make) -> None:
    client = make(debug=True).server.test_client()
    client.get("/board/write")
    assert ask(client, do="delete", key="nothing").json["values"] != []
    assert ask(client, do="delete", key="cart").json["values"] == []
    client.get("/board/write")
    assert ask(client, do="clear").json["values"] == []
    assert "str" in ask(client, do="delete", key=1).json["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {},
    ],
)
def test_no_other_page_can_ask_or_delete(make: Make, headers: dict[str, str]) -> None:
    client = make(debug=True).server.test_client()
    client.get("/board/write")
    for body in ({}, {"do": "clear"}, {"do": "delete", "key": "cart"}):
        assert ask(client, headers, **body).status_code == 403
    assert keys(client) == ["cart"]
    assert ask(client, {"Origin": "http://localhost"}).status_code == 200  # where browsers send no Fetch Metadata


def test_no_form_and_no_link_can_ask(make: Make) -> None:
    client = make(debug=True).server.test_client()
    client.get("/board/write")
    assert client.post(ROUTE, data='{"do": "clear"}', content_type="text/plain", headers=OWN_PAGE).status_code == 400
    assert client.post(ROUTE, data={"do": "clear"}, headers=OWN_PAGE).status_code == 400
    assert "values" not in client.get(ROUTE, headers=OWN_PAGE).text
    assert keys(client) == ["cart"]


def test_to_look_is_no_use_of_the_session(make: Make, tmp_path: Path, clock: HandClock) -> None:
    client = make(debug=True, ttl=1000).server.test_client()
    client.get("/board/write")
    database = apsw.Connection(f"{tmp_path}/store.sqlite")
    expiries = list(database.execute('SELECT value FROM "sessions"'))
    clock.step(500)
    assert keys(client) == ["cart"]
    assert list(database.execute('SELECT value FROM "sessions"')) == expiries
