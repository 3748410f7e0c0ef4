"""Every ASGI app has the store: of Starlette, FastAPI and Quart, Dash's on the latter two, and any other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asgi_visitor
import pytest
from asgi_visitor import MAKERS, SECRET, VIEWS, Visitor
from dash import Dash, html, page_container, page_registry, register_page
from fastapi import BackgroundTasks, FastAPI
from flask import Flask, g
from quart import Quart
from starlette.applications import Starlette

from flask_dash_store import (
    ConfigurationError,
    LateSetting,
    OutsideRequest,
    ResponseStarted,
    UserStoreMiddleware,
    is_available,
    session_started,
    user_store,
    visitor,
)
from flask_dash_store.maintenance import Maintenance

Maker = Callable[..., Any]


@pytest.fixture
def pages() -> Iterator[Any]:
    """Dash's registry of pages, which all apps of a process share."""
    page_registry.clear()
    yield register_page
    page_registry.clear()


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.sqlite"


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def maker(request: pytest.FixtureRequest) -> Maker:
    return request.param  # type: ignore[no-any-return]


def test_each_visitor_has_a_store_and_one_cookie(maker: Maker, file_url: str) -> None:
    app = maker(VIEWS, url=file_url)
    ada, bob = Visitor(app), Visitor(app)
    assert "set-cookie" in ada.get("/write").headers
    later = ada.get("/read")
    assert (later.text, later.headers["vary"], "set-cookie" in later.headers) == ("Ada", "Cookie", False)
    assert (bob.get("/read").text, Visitor(app, ada.cookies).get("/read").text) == ("None", "Ada")


def test_a_request_that_does_not_use_its_store_changes_nothing_of_the_response(maker: Maker, file_url: str) -> None:
    app = maker(VIEWS, url=file_url)
    ada = Visitor(app)
    ada.get("/write")
    assert {"set-cookie", "vary", "cache-control"}.isdisjoint(ada.get("/nothing").headers)


def test_a_cookie_is_eager_where_there_is_a_dash_app_alone(maker: Maker, file_url: str) -> None:
    response = Visitor(maker(VIEWS, url=file_url)).get("/nothing")
    assert ("set-cookie" in response.headers) == maker.__name__.startswith("dash")


def test_login_gives_another_id_and_keeps_the_values_and_logout_ends_them(maker: Maker, file_url: str) -> None:
    app = maker(VIEWS, url=file_url)
    ada = Visitor(app)
    ada.get("/write")
    planted = ada.cookies
    ada.get("/login")
    assert ada.cookie != planted["user_store"]
    assert (ada.get("/read").text, Visitor(app, planted).get("/read").text) == ("Ada", "None")
    ada.get("/logout")
    assert ada.get("/read").text == "None"


def test_a_write_of_a_request_that_a_login_has_overtaken_is_answered_with_409(maker: Maker, file_url: str) -> None:
    app = maker(VIEWS, url=file_url)
    ada = Visitor(app)
    ada.get("/write")
    late = Visitor(app, ada.cookies)
    ada.get("/login")
    response = late.get("/write")
    assert (response.status_code, "set-cookie" in response.headers) == (409, False)


INSIDE_OF_AN_APP = (asgi_visitor.plain, asgi_visitor.added)  # They do not see what an app around them answers.


@pytest.mark.parametrize("maker", [each for each in MAKERS if each not in INSIDE_OF_AN_APP])
def test_a_login_that_raises_brings_the_cookie_all_the_same(maker: Maker, file_url: str) -> None:
    def fail() -> str:
        user_store.regenerate(user_id="ada")
        raise ZeroDivisionError

    app = maker(VIEWS | {"/fail": fail}, url=file_url)
    ada = Visitor(app)
    ada.get("/write")
    assert ada.get("/fail").status_code == 500
    assert ada.get("/read").text == "Ada"


def test_a_visitors_name_stays_and_outside_of_a_request_there_is_no_visitor(maker: Maker, file_url: str) -> None:
    seen = []
    app = maker(VIEWS | {"/who": lambda: seen.append((is_available(), visitor())) or "ok"}, url=file_url)
    ada = Visitor(app)
    ada.get("/write")
    for _ in range(2):
        ada.get("/who")
    assert seen[0][0]
    assert seen[0] == seen[1]
    assert not is_available()
    with pytest.raises(OutsideRequest):
        user_store.get("name")


def test_which_requests_count_as_use_is_a_setting(maker: Maker, file_url: str, clock: Any) -> None:
    def is_use(request: Any) -> bool:
        return bool(request.path != "/poll")

    app = maker(VIEWS | {"/poll": asgi_visitor.read}, url=file_url, ttl=100, counts_as_use=is_use, clock=clock)
    idle, busy = Visitor(app), Visitor(app)
    for each in (idle, busy):
        each.get("/write")
    for _ in range(3):
        clock.step(40)
        idle.get("/poll")
        busy.get("/read")
    assert (idle.get("/read").text, busy.get("/read").text) == ("None", "Ada")


ATTRIBUTES = [
    ({}, "http", {"Path=/", "HttpOnly", "SameSite=Lax"}),
    ({}, "https", {"Path=/", "HttpOnly", "SameSite=Lax", "Secure"}),
    ({"cookie_secure": False}, "https", {"Path=/", "HttpOnly", "SameSite=Lax"}),
    ({"cookie_samesite": "Strict"}, "http", {"Path=/", "HttpOnly", "SameSite=Strict"}),
    ({"cookie_path": "/read"}, "http", {"Path=/read", "HttpOnly", "SameSite=Lax"}),
    ({"cookie_domain": "shop.example"}, "http", {"Path=/", "HttpOnly", "SameSite=Lax", "Domain=shop.example"}),
    ({"cookie_partitioned": True}, "https", {"Path=/", "HttpOnly", "SameSite=Lax", "Secure", "Partitioned"}),
]


@pytest.mark.parametrize(("options", "scheme", "expected"), ATTRIBUTES)
def test_the_cookie_has_the_attributes_that_are_set(
    file_url: str, options: dict[str, Any], scheme: str, expected: set[str]
) -> None:
    app = asgi_visitor.starlette(VIEWS, url=file_url, **options)
    cookie = Visitor(app, url=f"{scheme}://shop.example").get("/read").headers["set-cookie"]
    _, *attributes = cookie.split("; ")
    assert {each for each in attributes if not each.startswith(("Expires", "Max-Age"))} == expected


def test_a_response_for_shared_caches_brings_no_cookie(file_url: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"cache-control", b"public, max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    response = Visitor(UserStoreMiddleware(app, secret_key=SECRET, url=file_url, cookie_eager=True)).get("/")
    assert "set-cookie" not in response.headers


def test_a_response_that_varies_already_varies_by_cookie_too(file_url: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        user_store["name"] = "Ada"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"vary", b"Accept")]})
        await send({"type": "http.response.body"})

    ada = Visitor(UserStoreMiddleware(app, secret_key=SECRET, url=file_url))
    assert [ada.get("/").headers["vary"] for _ in range(2)] == ["Accept, Cookie"] * 2


def test_a_mounted_app_sees_its_paths_without_the_mount(file_url: str) -> None:
    inner = Starlette(routes=asgi_visitor.starlette(VIEWS).routes)
    UserStoreMiddleware(inner, secret_key=SECRET, url=file_url, cookie_path="/shop")
    outer = FastAPI()
    outer.mount("/shop", inner)
    ada = Visitor(outer)
    ada.get("/shop/write")
    assert ada.get("/shop/read").text == "Ada"


def test_a_flask_app_that_is_mounted_in_an_asgi_app_has_its_own_store(tmp_path: Path) -> None:
    from asgiref.wsgi import WsgiToAsgi

    flask = Flask("inner")
    flask.secret_key = SECRET
    UserStoreMiddleware(flask, url=f"sqlite:///{tmp_path}/inner.sqlite", cookie_name="inner")
    flask.add_url_rule("/write", "write", lambda: g.user_store.update(name="Bob") or "written")
    flask.add_url_rule("/read", "read", lambda: f"{g.user_store.get('name')} {user_store.get('name')}")
    outer = asgi_visitor.fastapi(VIEWS, url=f"sqlite:///{tmp_path}/outer.sqlite")
    outer.mount("/flask", WsgiToAsgi(flask))
    visitor = Visitor(outer)
    visitor.get("/write")
    visitor.get("/flask/write")
    assert (visitor.get("/read").text, visitor.get("/flask/read").text) == ("Ada", "Bob Bob")


def test_the_store_is_there_in_tasks_in_threads_and_while_a_response_streams(file_url: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        user_store["name"] = "Ada"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for text in (
            await asyncio.create_task(asyncio.sleep(0, user_store.get("name"))),
            await asyncio.to_thread(user_store.get, "name"),
        ):
            await send({"type": "http.response.body", "body": f"{text} ".encode(), "more_body": True})
        user_store["name"] = "Bob"
        await send({"type": "http.response.body", "body": user_store["name"].encode()})

    ada = Visitor(UserStoreMiddleware(app, secret_key=SECRET, url=file_url))
    assert ada.get("/").text == "Ada Ada Bob"


def test_a_background_tasks_write_for_a_new_visitor_without_the_cookie_is_an_error(file_url: str) -> None:
    app = FastAPI()
    failed: list[str] = []

    def keep() -> None:
        try:
            user_store["name"] = "Ada"
        except ResponseStarted as error:
            failed.append(str(error))

    @app.get("/later")
    def later(tasks: BackgroundTasks, reads: bool = False) -> None:
        if reads:
            assert "name" not in user_store
        tasks.add_task(keep)

    app.add_api_route("/read", asgi_visitor.read)
    UserStoreMiddleware(app, secret_key=SECRET, url=file_url)
    stranger, ada = Visitor(app), Visitor(app)
    assert stranger.get("/later").headers.get("Set-Cookie") is None
    assert len(failed) == 1
    ada.get("/later?reads=true")
    assert ada.get("/read").json() == "Ada"
    assert len(failed) == 1


@pytest.mark.parametrize("maker", [asgi_visitor.fastapi, asgi_visitor.quart])
def test_visitors_at_once_on_one_loop_keep_apart(maker: Maker, file_url: str) -> None:
    app = maker({"/": lambda: str(user_store.increment("n"))}, url=file_url)
    visitors = [Visitor(app) for _ in range(8)]

    async def visit_at_once() -> list[str]:
        return [each.text for each in await asyncio.gather(*(each.get_async("/") for each in visitors))]

    assert [asyncio.run(visit_at_once()) for _ in range(3)] == [[str(n)] * 8 for n in (1, 2, 3)]


# The server's own events, and what is done after responses


def test_lifespan_events_pass_through_and_open_nothing(tmp_path: Path) -> None:
    passed = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append((scope, receive, send))

    served = UserStoreMiddleware(app, secret_key=SECRET, url=f"sqlite:///{tmp_path}/store.sqlite")
    events = {"type": "lifespan"}, asgi_visitor.read, asgi_visitor.write
    asyncio.run(served(*events))  # type: ignore[arg-type]
    assert passed == [events]
    assert not list(tmp_path.iterdir())


def test_what_is_done_after_responses_is_done_in_a_thread(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    run = Maintenance.run
    monkeypatch.setattr(Maintenance, "run", lambda self: (threads.append(threading.current_thread()), run(self)))
    monkeypatch.setattr(Maintenance, "is_due", lambda *_: True)
    Visitor(asgi_visitor.starlette(VIEWS, url=file_url)).get("/write")
    assert [thread is threading.current_thread() for thread in threads] == [False]


def test_receivers_of_signals_may_be_coroutine_functions(file_url: str) -> None:
    app = asgi_visitor.starlette(VIEWS, url=file_url)
    senders = []

    async def note(sender: Any, **_: Any) -> None:
        senders.append(sender)

    with session_started.connected_to(note, sender=app):
        Visitor(app).get("/write")
    assert senders == [app]


# Dash's pages


@pytest.mark.parametrize("use_async", [False, True])
@pytest.mark.parametrize("backend", ["fastapi", "quart"])
@pytest.mark.parametrize("way", ["given Dash", "given the server", "added"])
def test_what_dash_prepares_for_all_holds_no_visitors_data(
    pages: Any, file_url: str, backend: str, use_async: bool, way: str
) -> None:
    def layout(**_: Any) -> html.Div:
        return html.Div(f"Name: {user_store.get('name') if is_available() else None}")

    async def async_layout(**_: Any) -> html.Div:
        return layout()

    app = Dash("board", backend=backend, use_async=use_async, use_pages=True, pages_folder="")
    app.layout = lambda: html.Div([layout(), page_container])
    pages("home", path="/", layout=async_layout if use_async else layout)
    server = app.server
    server.secret_key = SECRET
    if way == "added" and backend == "fastapi":
        server.add_middleware(UserStoreMiddleware, secret_key=SECRET, url=file_url)
    else:
        UserStoreMiddleware(app if way == "given Dash" else server, url=file_url)
    ada = Visitor(asgi_visitor.starlette(VIEWS, url=file_url))
    ada.get("/write")
    ada, bob = Visitor(server, ada.cookies), Visitor(server)
    assert "Name: Ada" not in ada.get("/").text
    assert "Name: Ada" not in bob.get("/").text
    assert "Name: Ada" in ada.get("/_dash-layout").text
    assert "Name: None" in bob.get("/_dash-layout").text


# Settings


@pytest.mark.parametrize("app", [Starlette(), FastAPI(), Quart("site"), asgi_visitor.plain({})])
def test_without_a_secret_key_the_error_says_what_to_do(app: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"app\.secret_key[\s\S]*secret_key=\.\.\."):
        UserStoreMiddleware(app).for_user("ada")


def test_the_secrets_are_options_where_the_app_has_no_config_and_can_be_rotated(file_url: str) -> None:
    ada = Visitor(asgi_visitor.plain(VIEWS, url=file_url))
    ada.get("/write")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        name = str(user_store.get("name"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name.encode()})

    rotated = UserStoreMiddleware(app, secret_key=SECRET[::-1], secret_key_fallbacks=[SECRET], url=file_url)
    response = Visitor(rotated, ada.cookies).get("/")
    assert (response.text, "set-cookie" in response.headers) == ("Ada", True)


def test_settings_of_quarts_config_count_and_a_late_one_is_warned_of(file_url: str) -> None:
    app = asgi_visitor.quart(VIEWS)
    app.config.update(USER_STORE_URL=file_url, USER_STORE_COOKIE_NAME="mine")
    assert Visitor(app).get("/write").headers["set-cookie"].startswith("mine=")
    with pytest.warns(LateSetting, match="USER_STORE_COOKIE_NAME"):
        app.config["USER_STORE_COOKIE_NAME"] = "other"
    with pytest.raises(ConfigurationError, match="'site' has one"):
        UserStoreMiddleware(Quart("site"), secret_key=SECRET)


def test_what_is_of_flask_is_refused(file_url: str) -> None:
    with pytest.raises(ConfigurationError, match="flask_session=True"):
        asgi_visitor.starlette(VIEWS, url=file_url, flask_session=True)
    flask = Flask("shop")
    served: list[Any] = [UserStoreMiddleware(flask), UserStoreMiddleware()]
    for middleware, message in zip(served, ("is a Flask app", "without an app"), strict=True):
        with pytest.raises(ConfigurationError, match=message):
            asyncio.run(middleware({"type": "http"}, None, None))


@pytest.mark.parametrize("app", [Starlette(), Quart("site")])
def test_a_second_store_on_an_app_is_refused(app: Any) -> None:
    UserStoreMiddleware(app)
    with pytest.raises(ConfigurationError, match="has a user store already"):
        UserStoreMiddleware(app)


def test_a_dash_app_finds_its_values_when_it_changes_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moving_app.py").write_text("")  # No other test imports a module of this name.
    monkeypatch.syspath_prepend(tmp_path)
    for backend, expected in (("flask", None), ("fastapi", "Ada"), ("quart", "Ada")):
        app = Dash("moving_app", backend=backend)
        app.server.secret_key = SECRET
        stores = UserStoreMiddleware(app)
        assert stores.for_user("ada").get("name") == expected
        stores.for_user("ada")["name"] = "Ada"
        stores.close()
