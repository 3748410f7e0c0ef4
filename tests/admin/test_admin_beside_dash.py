"""The admin page takes nothing from the Dash app that it is for, and adds nothing to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import dash
import pytest
from admin_page import OWN_PAGE, AdminPage
from dash import Dash, Input, Output, callback, dcc, hooks, html
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_dash_store import UserStoreAdmin, UserStoreMiddleware

URL = "/user-store"

Make = Callable[..., Dash]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made = []

    def make(admin_first: bool = False, prefix: str = "/", **options: Any) -> Dash:
        def admin() -> None:
            UserStoreAdmin(app, URL, allow=lambda: True)

        app = Dash("shop", routes_pathname_prefix=prefix, assets_folder=str(tmp_path), **options)
        app.server.secret_key = "k" * 32
        if admin_first:
            admin()
        app.layout = html.Div([dcc.Input(id="name", value="ada"), html.P(id="hello")])
        made.append(UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/{len(made)}.sqlite"))
        if not admin_first:
            admin()
        return app

    (tmp_path / "own.css").write_text("p { color: red }")
    yield make
    for stores in made:
        stores.close()


def greet(name: str) -> str:
    return f"Hello {name}"


@pytest.mark.parametrize("admin_first", [True, False])
@pytest.mark.parametrize("admin_is_asked_first", [True, False])
def test_callbacks_without_an_app_stay_those_of_the_other_app(
    make: Make, admin_first: bool, admin_is_asked_first: bool
) -> None:
    callback(Output("hello", "children"), Input("name", "value"))(greet)
    app = make(admin_first)
    client = app.server.test_client()
    own, admins = (f"{path}_dash-dependencies" for path in ("/", f"{URL}/"))
    answers = {path: client.get(path).json for path in ([admins, own] if admin_is_asked_first else [own, admins])}
    assert [each["output"] for each in answers[own]] == ["hello.children"]
    assert not [each for each in answers[admins] if "hello" in each["output"]]
    asked = {
        "output": "hello.children",
        "outputs": {"id": "hello", "property": "children"},
        "inputs": [{"id": "name", "property": "value", "value": "ada"}],
        "changedPropIds": [],
    }
    answer = client.post("/_dash-update-component", json=asked).json
    assert answer["response"] == {"hello": {"children": "Hello ada"}}


def test_both_pages_are_served_each_with_its_own_layout_and_assets(make: Make) -> None:
    client = make().server.test_client()
    own, admins = client.get("/").text, client.get(f"{URL}/").text
    assert "own.css" in own
    assert "own.css" not in admins
    assert "admin.css" in admins
    assert "admin." not in own
    assert client.get(f"{URL}/assets/own.css").status_code == 404
    assert client.get("/assets/admin.css").status_code == 404
    assert "tiles" not in client.get("/_dash-layout").text
    assert "tiles" in client.get(f"{URL}/_dash-layout").text
    assert client.get("/some/page").status_code == 200  # Dash's own catch-all


def test_what_dash_keeps_in_globals_is_the_other_apps(make: Make) -> None:
    def look() -> None:
        app = make()
        app.server.test_client().get(f"{URL}/_dash-layout")
        assert dash.get_app() is app
        assert dash.get_asset_url("own.css") == "/assets/own.css"
        assert dash.get_relative_path("/x") == "/x"

    Context().run(look)  # Dash leaves its app in the context of the thread that has answered a request.


def test_hooks_for_all_apps_are_not_for_the_admin_page(make: Make) -> None:
    lists: list[list[Any]] = [hooks._ns["layout"], hooks._ns["index"]]  # noqa: SLF001
    before = [list(each) for each in lists]
    hooks._ns["layout"] = lists[0] + []  # noqa: SLF001

    @hooks.layout()
    def banner(layout: Any) -> Any:
        return [html.P("a banner"), layout]

    try:
        client = make().server.test_client()
        assert "a banner" in client.get("/_dash-layout").text
        assert "a banner" not in client.get(f"{URL}/_dash-layout").text
    finally:
        hooks._ns["layout"], hooks._ns["index"] = before  # noqa: SLF001


def test_pages_of_the_app_are_none_of_the_admin_page(make: Make) -> None:
    app = make(use_pages=True, pages_folder="")
    app.layout = html.Div(dash.page_container)
    dash.register_page("start", path="/", layout=html.P("the start page"))
    try:
        client = app.server.test_client()
        assert client.get("/").status_code == 200
        assert "start page" not in client.get(f"{URL}/_dash-layout").text
        assert not [each for each in client.get(f"{URL}/_dash-dependencies").json if "_pages" in each["output"]]
    finally:
        dash.page_registry.clear()


@pytest.mark.parametrize("name", ["DASH_URL_BASE_PATHNAME", "DASH_REQUESTS_PATHNAME_PREFIX", "DASH_SERVE_LOCALLY"])
def test_dashs_environment_variables_are_the_other_apps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Flask("shop")
    app.secret_key = "only for these tests"
    stores = UserStoreMiddleware(app, url="memory://")
    monkeypatch.setenv(name, "/elsewhere/")
    UserStoreAdmin(app, URL, allow=lambda: True)
    assert os.environ[name] == "/elsewhere/"
    assert f'"{URL}/_dash-component-suites/' in app.test_client().get(f"{URL}/").text
    stores.close()


def test_below_a_path_its_scripts_and_data_are_below_it_too(make: Make) -> None:
    client = Client(DispatcherMiddleware(_not_found, {"/shop": make().server}))
    page = client.get(f"/shop{URL}/").text
    assert f'"/shop{URL}/assets/admin.css' in page
    assert f'"requests_pathname_prefix":"\\u002fshop{URL}\\u002f"' in page
    assert client.get(f"/shop{URL}").location == f"/shop{URL}/"


def test_behind_a_proxy_that_removes_a_path_it_is_where_the_dash_app_says(make: Make) -> None:
    page = make(requests_pathname_prefix="/shop/").server.test_client().get(f"{URL}/").text
    assert f'"/shop{URL}/assets/admin.css' in page


def test_a_path_that_a_proxy_names_is_no_markup(make: Make) -> None:
    client = make().server.test_client()
    page = client.get(f"{URL}/", environ_overrides={"SCRIPT_NAME": '/"></script><script>alert(1)</script>'}).text
    assert "alert(1)<" not in page
    assert "%3Cscript%3Ealert" in page


@pytest.mark.parametrize("prefix", ["//evil.example", "https://evil.example", "\\\\evil.example"])
def test_a_path_that_a_proxy_names_leads_to_no_other_site(make: Make, prefix: str) -> None:
    client = make().server.test_client()
    location = client.get(URL, environ_overrides={"SCRIPT_NAME": prefix}).location
    assert location[0] == "/"
    assert location[1] not in "/\\"


def test_the_page_of_a_plain_flask_app_gives_its_visitors_no_cookie_of_a_dash_app(tmp_path: Path) -> None:
    app = Flask("plain")
    app.secret_key = "k" * 32
    stores = UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/plain.sqlite")
    UserStoreAdmin(app, allow=lambda: True)
    app.add_url_rule("/", "index", lambda: "hello")
    client = app.test_client()
    assert "Set-Cookie" not in client.get("/").headers
    page = AdminPage(client)
    assert "Set-Cookie" not in page.post(page.callback("tiles.children"), OWN_PAGE).headers
    stores.close()


def _not_found(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [])
    return [b""]
