"""``Changed`` and ``tab_store`` on the servers that Dash has beside Flask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asgi_visitor import SECRET, Visitor
from dash import Dash, Input, Output, html

from flask_dash_store import Changed, UserStoreMiddleware, is_available, tab_store, user_store

POLL = "/_user-store/changed"
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
    [side_update] = answer["sideUpdate"].values()
    poll = ada.get(POLL)
    assert list(poll.json()["versions"].values()) == [side_update["data"]]
    assert "set-cookie" not in poll.headers
    assert list(bob.get(POLL).json()["versions"].values()) == [None]
    assert "kept in this tab" in ada.get("/_dash-layout", **TAB).text
    assert side_update["data"] in ada.get("/_dash-layout", **TAB).text
    assert "kept in this tab" not in ada.get("/_dash-layout", **OTHER_TAB).text
    assert "kept in this tab" not in bob.get("/_dash-layout", **TAB).text
