"""``flask_dash_store.testing``, and docs/testing.md, whose code runs here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from dash import Dash, Input, Output, ctx, html
from dash._callback_context import context_value
from dash._utils import AttributeDict
from documents import ROOT, blocks
from flask import Flask, g

from flask_dash_store import ConfigurationError, InvalidKey, QuotaExceeded, UserStoreMiddleware, tab_store, user_store
from flask_dash_store.testing import user_store_context, user_store_transaction

SECRET = "0123456789abcdef0123456789abcdef"


def flask_app(folder: Path, **options: Any) -> Flask:
    app = Flask("shop", instance_path=str(folder))
    app.config["SECRET_KEY"] = SECRET
    UserStoreMiddleware(app, **options)
    return app


def dash_app(folder: Path, prefix: str = "/", **options: Any) -> Dash:
    server = Flask("board", instance_path=str(folder))
    server.config["SECRET_KEY"] = SECRET
    app = Dash("board", server=server, url_base_pathname=prefix)
    app.layout = html.Div()
    UserStoreMiddleware(app, **options)
    return app


# A client's store

PATHS: list[tuple[str, Callable[[Path], Flask]]] = [
    ("/name", flask_app),
    ("/name", lambda folder: dash_app(folder).server),
    ("/board/name", lambda folder: dash_app(folder, "/board/").server),
    ("/admin/name", lambda folder: flask_app(folder, cookie_path="/admin")),
    ("/name", lambda folder: flask_app(folder, cookie_domain="localhost.example")),
    ("/name", lambda folder: flask_app(folder, cookie_name="__Host-store")),
]


@pytest.mark.parametrize(("path", "make"), PATHS)
@pytest.mark.parametrize("comes_first", [True, False])
def test_what_a_test_stores_the_clients_requests_read_and_the_other_way_round(
    tmp_path: Path, path: str, make: Callable[[Path], Flask], comes_first: bool
) -> None:
    app = make(tmp_path)
    app.config["SERVER_NAME"] = "localhost.example"
    app.add_url_rule(path, "name", lambda: str(g.user_store.get("name")))
    app.add_url_rule(f"{path}/<name>", "save", lambda name: g.user_store.update(name=name) or "ok")
    client, stranger = app.test_client(), app.test_client()
    if not comes_first:
        client.get(path)
    with user_store_transaction(client) as store:
        assert store.is_new == comes_first or not store
        store["name"] = "Ada"
    assert client.get(path).text == "Ada"
    assert client.get(f"{path}/Bob").text == "ok"
    with user_store_transaction(client) as store:
        assert dict(store) == {"name": "Bob"}
        store.regenerate(user_id="bob")
    assert client.get(path).text == "Bob"
    with user_store_transaction(client) as store:
        store.destroy()
    assert client.get(path).text == "None"
    assert stranger.get(path).text == "None"


def test_a_client_of_several_hosts_has_a_store_on_each(tmp_path: Path) -> None:
    client = flask_app(tmp_path, url="memory://").test_client()
    hosts = [f"http://{name}.example" for name in "ab"]
    for host in hosts:
        with user_store_transaction(client, base_url=host) as store:
            store["host"] = host
    for host in hosts:
        with user_store_transaction(client, base_url=host) as store:
            assert store["host"] == host


def test_a_block_that_fails_gives_the_client_no_cookie(tmp_path: Path) -> None:
    client = flask_app(tmp_path, url="memory://").test_client()
    with pytest.raises(ZeroDivisionError), user_store_transaction(client):
        _ = 1 // 0
    assert client.get_cookie("user_store") is None


# A callback called directly


def save(value: str) -> str:
    g.user_store["value"] = value
    return f"saved {user_store['value']}"


@pytest.mark.parametrize("make", [flask_app, dash_app])
def test_a_callback_called_directly_has_the_store_and_leaves_no_file(tmp_path: Path, make: Any) -> None:
    folder = tmp_path / "instance"
    app = make(folder)
    for value in ("one", "two"):
        with user_store_context(app) as store:
            assert dict(store) == {}
            store["before"] = True
            assert save(value) == f"saved {value}"
            assert dict(store) == {"before": True, "value": value}
    assert not folder.exists()


def test_an_async_callback_finds_it_too(tmp_path: Path) -> None:
    async def callback() -> str:
        return save("later")

    with user_store_context(dash_app(tmp_path, "/board/")) as store:
        assert asyncio.run(callback()) == "saved later"
        assert store["value"] == "later"


def test_the_stores_of_users_are_in_memory_and_the_blocks_own_too(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    app = flask_app(folder)
    middleware = app.extensions["user_store"]
    for _ in range(2):
        with user_store_context(app) as store:
            middleware.for_user("ada").setdefault("theme", "dark")
            assert len(middleware.for_user("ada")) == 1
            store["name"] = "Ada"
            store.regenerate(user_id="ada")
            assert len(middleware.sessions("ada")) == 1
    assert not folder.exists()


def test_the_settings_are_the_apps(tmp_path: Path) -> None:
    with user_store_context(flask_app(tmp_path, max_bytes=100, max_key_length=5)) as store:
        with pytest.raises(QuotaExceeded):
            store["key"] = "x" * 100
        with pytest.raises(InvalidKey):
            store["longer"] = 1


def test_the_request_can_be_described(tmp_path: Path) -> None:
    from flask import request

    with user_store_context(flask_app(tmp_path), "/search?q=books", method="POST") as store:
        store["q"] = request.args["q"]
        assert (request.method, store["q"]) == ("POST", "books")


@pytest.mark.parametrize(
    "enter", [lambda app: user_store_context(app), lambda app: user_store_transaction(app.test_client())]
)
def test_for_an_app_without_the_middleware_the_error_says_to_install_it(enter: Any) -> None:
    with pytest.raises(ConfigurationError, match="UserStoreMiddleware"), enter(Flask("plain")):
        pass


# The page


def test_the_code_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    files = blocks("docs/testing.md", "python")
    app, *tests = (code for codes in files.values() for code in codes)
    (tmp_path / "shop.py").write_text(app)
    for n, test in enumerate(tests):
        (tmp_path / f"test_{n}.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:flask", "-p", "no:dash", "--rootdir", "."]
    run = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(tests) >= 4
    assert not list(tmp_path.rglob("*.sqlite*"))


def test_a_callback_that_is_called_directly_has_a_tab(tmp_path: Path) -> None:
    with user_store_context(flask_app(tmp_path)):
        tab_store["note"] = 1
        assert (dict(tab_store), dict(user_store)) == ({"note": 1}, {})


def test_it_has_one_where_a_test_says_by_dashs_own_context_what_has_triggered_it(tmp_path: Path) -> None:
    def call() -> None:
        context_value.set(AttributeDict(triggered_inputs=[{"prop_id": "save.n_clicks"}]))
        with user_store_context(flask_app(tmp_path)):
            tab_store["note"] = ctx.triggered_id
            assert dict(tab_store) == {"note": "save"}

    copy_context().run(call)


def test_an_asynchronous_callback_leaves_no_tab_to_the_threads_next_request() -> None:
    app = Dash("tabs", use_async=True)
    app.server.secret_key = "k" * 32
    UserStoreMiddleware(app, url="memory://")
    app.layout = html.Div([html.Div(id="in"), html.Div(id="out")])

    @app.callback(Output("out", "children"), Input("in", "children"))
    async def keep(_: object) -> str:
        tab_store["note"] = "kept"
        return "kept"

    app.server.add_url_rule("/tab", "tab", lambda: str(dict(tab_store)))
    body = {
        "output": "out.children",
        "outputs": {"id": "out", "property": "children"},
        "inputs": [{"id": "in", "property": "children", "value": 1}],
        "changedPropIds": ["in.children"],
    }

    def visit() -> None:
        client = app.server.test_client()
        client.get("/")
        response = client.post("/_dash-update-component", json=body, headers={"X-User-Store-Tab": "a" * 32})
        assert response.status_code == 200
        assert client.get("/tab", headers={"X-User-Store-Tab": "b" * 32}).text == "{}"
        assert client.get("/tab", headers={"X-User-Store-Tab": "a" * 32}).text == "{'note': 'kept'}"
        assert client.get("/tab").status_code == 500  # A view that no tab has asked for.

    copy_context().run(visit)  # One thread's.
