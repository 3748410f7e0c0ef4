"""In Flask-SocketIO's events the visitor's store is at hand, whichever of the two was made first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import socketio
from flask import Flask, g
from flask_socketio import SocketIO
from werkzeug.serving import make_server

from flask_dash_store import ResponseStarted, SessionEnded, UserStoreMiddleware, user_store

SECRET = "0123456789abcdef0123456789abcdef"

Answer = Callable[..., Any]


def make_app(socketio_is_first: bool) -> tuple[Flask, SocketIO]:
    app = Flask("chat")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", USER_STORE_COOKIE_EAGER=True)
    if socketio_is_first:
        events = SocketIO(app, async_mode="threading")
        UserStoreMiddleware(app)
    else:
        UserStoreMiddleware(app)
        events = SocketIO(app, async_mode="threading")
    app.add_url_rule("/name", "name", lambda: str(g.user_store.get("name")))
    app.add_url_rule("/name/<name>", "save", lambda name: g.user_store.update(name=name) or "ok")
    app.add_url_rule("/regenerate", "regenerate", lambda: g.user_store.regenerate() or "ok")

    @events.on("connect")
    def connect() -> None:
        g.user_store.setdefault("connected", True)

    @events.on("name")
    def name(new: str | None = None) -> list[Any]:
        if new:
            g.user_store["name"] = new
        return [g.user_store.get("name"), user_store.get("name"), user_store.get("connected")]

    @events.on("try")
    def attempt(what: str) -> str:
        try:
            user_store.regenerate() if what == "regenerate" else user_store.update(name="late")
        except (ResponseStarted, SessionEnded) as error:
            return type(error).__name__
        return "done"

    return app, events


@contextmanager
def served(app: Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def connected(url: str, transport: str, browser: requests.Session) -> Iterator[Answer]:
    """Sends an event, and returns what its handler answers."""
    client = socketio.Client(http_session=browser, reconnection=False)
    client.connect(url, transports=[transport])
    try:
        yield client.call
    finally:
        client.disconnect()


@pytest.fixture(params=[True, False], ids=["socketio first", "store first"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    app, _ = make_app(request.param)
    with served(app) as url:
        yield url


@pytest.fixture(params=["polling", "websocket"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


def test_events_and_pages_of_a_visitor_have_one_store(url: str, transport: str) -> None:
    ada, bob = requests.Session(), requests.Session()
    for browser, name in ((ada, "Ada"), (bob, "Bob")):
        assert browser.get(f"{url}/name/{name}").text == "ok"
    with connected(url, transport, ada) as adas, connected(url, transport, bob) as bobs:
        assert adas("name") == ["Ada", "Ada", True]
        assert bobs("name") == ["Bob", "Bob", True]
        assert adas("name", "Countess") == ["Countess", "Countess", True]
        assert [browser.get(f"{url}/name").text for browser in (ada, bob)] == ["Countess", "Bob"]
        ada.get(f"{url}/name/Lovelace")
        assert adas("name") == ["Lovelace", "Lovelace", True]


def test_an_event_cannot_bring_the_browser_another_id_so_regenerate_says_so_and_the_old_one_lives_on(
    url: str, transport: str
) -> None:
    browser = requests.Session()
    browser.get(f"{url}/name/Ada")
    with connected(url, transport, browser) as call:
        assert call("try", "regenerate") == "ResponseStarted"
    assert browser.get(f"{url}/name").text == "Ada"


def test_an_event_of_a_connection_from_before_a_login_revives_nothing(url: str, transport: str) -> None:
    browser = requests.Session()
    browser.get(f"{url}/name/Ada")
    with connected(url, transport, browser) as call:
        browser.get(f"{url}/regenerate")
        assert call("try", "write") == "SessionEnded"
        assert call("name") == [None, None, None]
    assert browser.get(f"{url}/name").text == "Ada"


@pytest.mark.parametrize("socketio_is_first", [True, False])
def test_the_test_client_of_flask_socketio_comes_as_the_visitor_of_flasks(socketio_is_first: bool) -> None:
    app, events = make_app(socketio_is_first)
    browser = app.test_client()
    browser.get("/name/Ada")
    client = events.test_client(app, flask_test_client=browser)
    assert client.emit("name", callback=True) == ["Ada", "Ada", True]
