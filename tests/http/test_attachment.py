"""The visitor's store is at hand wherever an app's code runs for a request, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dash
import pytest
from dash import Dash, Input, Output, html
from flask import Flask, Response, abort, g, stream_with_context
from flask.testing import FlaskClient
from werkzeug.test import create_environ, run_wsgi_app

import flask_dash_store
from flask_dash_store import ConfigurationError, OutsideRequest, UserStoreMiddleware, is_available, user_store

SECRET = "0123456789abcdef0123456789abcdef"


def make_server() -> Flask:
    server = Flask("shop")
    server.config.update(SECRET_KEY=SECRET, USER_STORE_URL="sqlite://:memory:")
    return server


def session_id(client: FlaskClient) -> str:
    cookie = client.get_cookie("user_store")
    assert cookie is not None
    return cookie.value.partition(".")[0]


class Places:
    """Where code has run, and whose stores g and the proxy gave it there."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str | None]] = {}

    def mark(self, name: str) -> None:
        assert is_available()
        self.seen[name] = {g.user_store.session_id, user_store.session_id, flask_dash_store.user_store.session_id}

    def marker(self, name: str, result: Any = None) -> Callable[..., Any]:
        def mark(*_: Any, **__: Any) -> Any:
            self.mark(name)
            return result

        return mark


# Flask

EVERYWHERE = {"url_value_preprocessor", "before_request", "after_request", "teardown_request"}


def make_app(places: Places) -> Flask:
    app = make_server()
    UserStoreMiddleware(app)
    app.url_value_preprocessor(places.marker("url_value_preprocessor"))
    app.before_request(places.marker("before_request"))
    app.teardown_request(places.marker("teardown_request"))
    app.register_error_handler(ZeroDivisionError, places.marker("error handler", ("caught", 500)))
    app.register_error_handler(404, places.marker("404 handler", ("where?", 404)))
    app.add_url_rule("/view", view_func=places.marker("view", "ok"))

    @app.after_request
    def after(response: Response) -> Response:
        places.mark("after_request")
        return response

    @app.get("/async")
    async def async_view() -> str:
        places.mark("async view")
        return "ok"

    @app.get("/stream")
    def stream() -> Response:
        @stream_with_context
        def parts() -> Iterator[str]:
            places.mark("stream")
            yield "ok"

        return Response(parts())

    @app.get("/fails")
    def fails() -> str:
        return str(1 // 0)

    @app.get("/aborts")
    def aborts() -> None:
        abort(404)

    return app


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/view", "view"),
        ("/async", "async view"),
        ("/stream", "stream"),
        ("/fails", "error handler"),
        ("/aborts", "404 handler"),
        ("/nowhere", "404 handler"),
    ],
)
def test_g_and_the_proxy_give_the_visitors_store_wherever_a_request_runs_code(path: str, place: str) -> None:
    places = Places()
    client = make_app(places).test_client()
    for _ in range(2):  # a visitor who is new, and one who is known
        places.seen.clear()
        client.get(path).get_data()
        assert places.seen == {each: {session_id(client)} for each in EVERYWHERE | {place}}


@pytest.mark.parametrize("is_pushed_first", [False, True])
def test_requests_inside_one_app_context_have_each_its_own_visitor(is_pushed_first: bool) -> None:
    app = make_server()
    app.add_url_rule("/", "view", lambda: g.user_store.session_id)
    with ExitStack() as stack:  # as after app.app_context().push() at the top of a module
        if is_pushed_first:
            stack.enter_context(app.app_context())
        UserStoreMiddleware(app)
        if not is_pushed_first:
            stack.enter_context(app.app_context())
        for client in (app.test_client(), app.test_client()):
            for _ in range(2):
                assert client.get("/").text == session_id(client)


def test_a_request_made_while_another_is_handled_has_its_own_visitor() -> None:
    app = make_server()
    UserStoreMiddleware(app)
    inner = app.test_client()
    app.add_url_rule("/inner", "inner", lambda: g.user_store.session_id)
    app.add_url_rule("/", "view", lambda: inner.get("/inner").text + " " + g.user_store.session_id)
    outer = app.test_client()
    assert outer.get("/").text == f"{session_id(inner)} {session_id(outer)}"


def test_in_the_context_of_another_app_there_is_no_store_of_this_apps_visitor() -> None:
    app, other = make_server(), make_server()
    middleware = UserStoreMiddleware()
    middleware.init_app(app)
    middleware.init_app(other)

    @app.get("/")
    def view() -> str:
        with other.app_context():
            return str("user_store" in g)

    assert app.test_client().get("/").text == "False"


def test_in_a_request_of_an_app_without_the_middleware_the_error_names_the_app_and_the_call() -> None:
    app = make_server()
    app.add_url_rule("/", view_func=lambda: user_store["k"])
    with (
        app.test_request_context(),
        pytest.raises(OutsideRequest, match=f"{app.import_name!r}.* has no UserStoreMiddleware. Call UserStoreM"),
    ):
        app.dispatch_request()


def test_wrapping_wsgi_app_by_hand_is_an_error_that_says_to_pass_the_app() -> None:
    with pytest.raises(ConfigurationError, match=r"not method\. Pass the app itself, not app\.wsgi_app"):
        UserStoreMiddleware(make_server().wsgi_app)  # type: ignore[arg-type]


def test_a_direct_wsgi_call_which_is_what_app_run_makes_finds_the_store() -> None:
    places = Places()
    dash_app = Dash("board", server=make_app(places))
    dash_app.layout = html.Div()
    for app in (make_app(places), dash_app):
        places.seen.clear()
        _, status, headers = run_wsgi_app(app, create_environ("/view"))
        assert status == "200 OK"
        assert places.seen["view"] == {headers["Set-Cookie"].split("=")[1].partition(".")[0]}


# Outside a request


@pytest.mark.parametrize(
    "use", [lambda: user_store["k"], lambda: "k" in user_store, lambda: len(user_store), lambda: user_store.session_id]
)
def test_outside_a_request_the_proxy_says_what_to_do(use: Callable[[], Any]) -> None:
    app = make_server()
    UserStoreMiddleware(app)
    with pytest.raises(OutsideRequest, match=r"imported[\s\S]*open\(handle\)[\s\S]*is_available\(\)[\s\S]*for_user"):
        use()
    with app.app_context():
        assert not is_available()
        with pytest.raises(OutsideRequest):
            use()
    assert not is_available()


def test_in_a_request_of_an_app_without_the_middleware_there_is_no_store() -> None:
    app = make_server()
    app.add_url_rule("/", view_func=lambda: str(is_available()))
    assert app.test_client().get("/").text == "False"


# Dash


def call_back(client: FlaskClient, text: str) -> str:
    """What the browser posts when the value of the input changes; what it is given for the output."""
    body = {
        "output": "out.children",
        "outputs": {"id": "out", "property": "children"},
        "inputs": [{"id": "in", "property": "value", "value": text}],
        "changedPropIds": ["in.value"],
        "state": [],
    }
    return client.post("/_dash-update-component", json=body).json["response"]["out"]["children"]


def make_dash(layout: Any, use_async: bool, **options: Any) -> Dash:
    app = Dash("board", server=make_server(), use_async=use_async, **options)
    UserStoreMiddleware(app)
    app.layout = layout
    return app


@pytest.mark.parametrize("use_async", [False, True])
def test_a_layout_function_copes_with_its_call_outside_a_request_and_sees_each_visitors_data(use_async: bool) -> None:
    calls = []

    def layout() -> html.Div:
        calls.append(is_available())
        return html.Div([html.Div(id="out"), html.Div(id="in"), user_store.get("name") if is_available() else "nobody"])

    app = make_dash(layout, use_async)
    assert calls == [False]

    @app.callback(Output("out", "children"), Input("in", "value"), prevent_initial_call=True)
    def save(value: str) -> str:
        g.user_store["name"] = value
        return user_store["name"]

    clients = {name: app.server.test_client() for name in ("Ada", "Bob")}
    for name, client in clients.items():
        client.get("/")
        assert call_back(client, name) == name
    for name, client in clients.items():
        assert client.get("/_dash-layout").json["props"]["children"][2] == name
    assert calls[1:].count(False) == 0


def test_an_async_callback_finds_the_store() -> None:
    app = make_dash(html.Div([html.Div(id="in"), html.Div(id="out")]), use_async=True)

    @app.callback(Output("out", "children"), Input("in", "value"), prevent_initial_call=True)
    async def save(value: str) -> str:
        user_store["name"] = value
        return g.user_store["name"] + user_store.session_id

    client = app.server.test_client()
    client.get("/")
    assert call_back(client, "Ada") == "Ada" + session_id(client)


@pytest.fixture
def pages() -> Iterator[Any]:
    """Dash's registry of pages, which all apps of a process share."""
    dash.page_registry.clear()
    yield dash.register_page
    dash.page_registry.clear()


def open_page(client: FlaskClient, path: str) -> str:
    """What Dash's router gives the browser for the content of a page."""
    body = {
        "output": ".._pages_content.children..._pages_store.data..",
        "outputs": [{"id": "_pages_content", "property": "children"}, {"id": "_pages_store", "property": "data"}],
        "inputs": [
            {"id": "_pages_location", "property": "pathname", "value": path},
            {"id": "_pages_location", "property": "search", "value": ""},
        ],
        "changedPropIds": ["_pages_location.pathname"],
        "state": [],
    }
    return client.post("/_dash-update-component", json=body).text


@pytest.mark.parametrize("use_async", [False, True])
def test_what_the_first_visitor_has_stored_is_not_embedded_in_the_index_that_all_get(
    pages: Any, tmp_path: Path, use_async: bool
) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"

    def layout(**_: str) -> html.Div:
        return html.Div(f"g: {g.user_store.get('name')}, proxy: {user_store.get('name')}")

    async def async_layout(**_: str) -> html.Div:
        return layout()

    def whole() -> html.Div:
        return html.Div([dash.page_container, user_store.get("name") if is_available() else None])

    before_the_restart = make_server()
    UserStoreMiddleware(before_the_restart, url=url)
    before_the_restart.add_url_rule("/", view_func=lambda: user_store.update(name="Ada Byron") or "ok")
    ada = before_the_restart.test_client()
    ada.get("/")

    app = Dash("board", server=make_server(), use_async=use_async, use_pages=True, pages_folder="")
    UserStoreMiddleware(app, url=url)
    app.layout = whole
    pages("home", path="/", layout=async_layout if use_async else layout)
    bob = app.server.test_client()
    first, ada = ada, app.server.test_client()
    ada.set_cookie("user_store", first.get_cookie("user_store").value)

    assert "Ada Byron" not in ada.get("/").text
    assert "Ada Byron" not in bob.get("/").text
    assert "Ada Byron" in ada.get("/_dash-layout").text
    assert "g: Ada Byron, proxy: Ada Byron" in open_page(ada, "/")
    assert "g: None, proxy: None" in open_page(bob, "/")
