"""``Changed``, ``tab_store`` and the dev tools on the servers that Dash has beside Flask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_visitor import SECRET, Visitor
from dash import Dash, Input, Output, hooks, html

from flask_dash_store import (
    Changed,
    ConfigurationError,
    UserStoreAdmin,
    UserStoreMiddleware,
    is_available,
    tab_store,
    user_store,
)

CART = '["cart"]'  # what is watched, in the ids of its stores
POLL = "/_user-store/changed"
DEV_TOOLS = "/board/_user-store"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}
TAB, OTHER_TAB = ({"X-User-Store-Tab": digit * 32} for digit in "12")


@pytest.mark.parametrize("backend", ["fastapi", "quart"])
def test_a_write_comes_with_the_response_and_by_a_poll_and_each_tab_has_values_of_its_own(
    backend: str, tmp_path: Path
) -> None:
    app = Dash("watching", backend=backend)
    app.server.secret_key = SECRET
    UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite")
    app.layout = lambda: html.Div(tab_store.get("note", "") if is_available() else "", id="note")

    @app.callback(Output("note", "children"), Input("note", "n_clicks"))
    def write(_: Any) -> str:
        user_store["cart"] = ["apple"]
        tab_store["note"] = "kept in this tab"
        return f"{list(user_store)} {list(tab_store)}"

    @app.callback(Output("note", "title"), Changed("cart"))
    def watch(_: Any) -> str:
        return ""

    ada, bob = Visitor(app.server), Visitor(app.server)
    ada.get("/")
    answer = ada.post(
        "/_dash-update-component",
        {
            "output": "note.children",
            "outputs": {"id": "note", "property": "children"},
            "inputs": [{"id": "note", "property": "n_clicks", "value": 1}],
            "changedPropIds": ["note.n_clicks"],
        },
        **TAB,
    ).json()
    assert answer["response"] == {"note": {"children": "['cart'] ['note']"}}
    [side_update] = [update for store, update in answer["sideUpdate"].items() if json.loads(store)["keys"] == CART]
    poll = ada.get(POLL)
    assert poll.json()["versions"][CART] == side_update["data"]
    assert "set-cookie" not in poll.headers
    assert bob.get(POLL).json()["versions"][CART] is None
    assert "kept in this tab" in ada.get("/_dash-layout", **TAB).text
    assert side_update["data"] in ada.get("/_dash-layout", **TAB).text
    assert "kept in this tab" not in ada.get("/_dash-layout", **OTHER_TAB).text
    assert "kept in this tab" not in bob.get("/_dash-layout", **TAB).text


@pytest.fixture(params=["fastapi", "quart"])
def debugged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A server whose dev tools are on. Dash's hooks are those of the whole process, and as they were afterwards."""
    lists = hooks._js_dist, hooks._ns["dev_tools"]  # noqa: SLF001
    before = [list(each) for each in lists]
    app = Dash("board", backend=request.param, url_base_pathname="/board/")
    app.server.secret_key = SECRET
    app.layout = html.Div()
    middleware = UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite")
    middleware.for_user("ada")["note"] = 1  # The storage may be open before app.run() turns the dev tools on.
    app.server.get("/board/write")(write_cart)
    app.enable_dev_tools(dev_tools_hot_reload=False)
    yield app.server
    for each, was in zip(lists, before, strict=True):
        each[:] = was


def write_cart() -> str:
    user_store["cart"] = "a secret"
    return "written"


def keys(visitor: Visitor, **body: str) -> list[str]:
    return [value["key"] for value in visitor.post(DEV_TOOLS, body, **OWN_PAGE).json()["values"]]


def test_dev_tools_show_each_visitor_their_own_keys_and_no_value_and_delete_them(debugged: Any) -> None:
    ada, ben = Visitor(debugged), Visitor(debugged)
    ada.get("/board/write")
    page = ben.get("/board/").text
    [script] = [each for each in page.split('"') if "devtools" in each and each.startswith("/board/")]
    assert "UserStoreDevtool" in ben.get(script).text
    answer = ada.post(DEV_TOOLS, {}, **OWN_PAGE)
    [value] = answer.json()["values"]
    assert value == {"key": "cart", "nbytes": value["nbytes"], "kind": "small", "expires_at": None}
    assert "secret" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert keys(ben, do="clear") == []
    assert keys(ada, do="delete", key="nothing") == ["cart"]
    assert keys(ada, do="delete", key="cart") == []


def test_no_other_page_and_no_form_can_ask_the_dev_tools(debugged: Any) -> None:
    ada = Visitor(debugged)
    ada.get("/board/write")
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"}, {}):
        assert ada.post(DEV_TOOLS, {"do": "clear"}, **headers).status_code == 403
    form = OWN_PAGE | {"Content-Type": "text/plain"}
    for headers, body in ((form, {"do": "clear"}), (OWN_PAGE, [])):
        assert ada.post(DEV_TOOLS, body, **headers).status_code == 400
    assert "values" not in ada.get(DEV_TOOLS, **OWN_PAGE).text
    assert keys(ada) == ["cart"]
    assert ada.post(DEV_TOOLS, {}, Origin="http://shop.example").status_code == 200


@pytest.mark.parametrize("backend", ["fastapi", "quart"])
def test_without_dev_tools_there_is_no_route_and_no_script(backend: str, tmp_path: Path) -> None:
    app = Dash("board", backend=backend, url_base_pathname="/board/")
    app.server.secret_key = SECRET
    app.layout = html.Div()
    UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite")
    visitor = Visitor(app.server)
    assert "devtools" not in visitor.get("/board/").text
    assert visitor.post(DEV_TOOLS, {}, **OWN_PAGE).status_code in (404, 405)


@pytest.mark.parametrize(("backend", "server"), [("fastapi", "FastAPI"), ("quart", "Quart")])
def test_the_admin_page_says_that_it_needs_flask_and_what_to_use_instead(backend: str, server: str) -> None:
    with pytest.raises(ConfigurationError, match=f"not Dash on {server}. .*python -m flask_dash_store URL stats"):
        UserStoreAdmin(Dash("shop", backend=backend), allow=lambda: True)
