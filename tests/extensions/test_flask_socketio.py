"""In Flask-SocketIO's events the visitor's store is at hand, whichever of the two was made first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import requests
import socketio
from flask import Flask, g, session
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user
from flask_socketio import SocketIO
from shop import make_shop, served, twin

from flask_dash_store import ResponseStarted, SessionEnded, UserStoreMiddleware, user_store

SECRET = "0123456789abcdef0123456789abcdef"

Answer = Callable[..., Any]


def make_app(socketio_is_first: bool) -> tuple[Flask, SocketIO]:
    app = Flask("chat")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", USER_STORE_COOKIE_EAGER=True)
    if socketio_is_first:
        events = SocketIO(app, async_mode="threading", ping_interval=1)  # A poll that is under way ends with a ping.
        UserStoreMiddleware(app)
    else:
        UserStoreMiddleware(app)
        events = SocketIO(app, async_mode="threading", ping_interval=1)
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
def connected(url: str, transport: str, browser: requests.Session) -> Iterator[Answer]:
    """Sends an event, and returns what its handler answers."""
    client = socketio.Client(http_session=browser, reconnection=False)
    client.connect(url, transports=[transport])
    try:
        yield client.call
    finally:
        if transport == "websocket":
            # It would wait three seconds for an answer, which werkzeug does not give.
            client.eio.ws.close = partial(client.eio.ws.close, timeout=0.05)
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


# flask.session in the store


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


def make_chat(manage_session: bool) -> tuple[Flask, SocketIO]:
    app = make_shop()
    LoginManager(app).user_loader(User)
    events = SocketIO(app, async_mode="threading", manage_session=manage_session)
    app.add_url_rule("/put/<name>", "put", lambda name: str(session.update(name=name, seen=[])))
    app.add_url_rule("/get", "get", lambda: {"session": dict(session), "store": dict(user_store)})
    app.add_url_rule("/in/<name>", "in", lambda name: str(login_user(User(name), remember=True)))
    app.add_url_rule("/name", "name", lambda: str(session.get("name")))
    events.on_event("name", lambda new=None: (new and session.update(name=new)) or session.get("name"))
    events.on_event("store", lambda new: g.user_store.update(event=new))
    events.on_event("see", lambda: session["seen"].append(1))
    events.on_event("in by hand", lambda name: session.update(_user_id=name, note="lost"))
    events.on_event("in", lambda name: str(login_user(User(name))))
    events.on_event("out by hand", lambda: session.clear())
    events.on_event("out", lambda: str(logout_user()))
    events.on_event("who", lambda: current_user.get_id())
    return app, events


def talk(app: Flask, events: SocketIO, browser: FlaskClient) -> Answer:
    client = events.test_client(app, flask_test_client=browser)
    return lambda *args: client.emit(*args, callback=True)


def values(browser: FlaskClient) -> Any:
    values = browser.get("/get").get_json()
    return {key: value for key, value in values["session"].items() if not key.startswith("_")}


def test_with_manage_session_false_events_and_pages_share_the_session_over_a_real_connection(transport: str) -> None:
    app, _ = make_chat(manage_session=False)
    with served(app) as url:
        browser = requests.Session()
        browser.get(f"{url}/put/Ada")
        with connected(url, transport, browser) as call:
            assert call("name") == "Ada"
            assert call("name", "Countess") == "Countess"
            assert browser.get(f"{url}/name").text == "Countess"
            browser.get(f"{url}/put/Lovelace")
            assert call("name") == "Lovelace"


def test_what_an_event_changes_inside_of_a_value_is_kept() -> None:
    app, events = make_chat(manage_session=False)
    browser = app.test_client()
    browser.get("/put/Ada")
    call = talk(app, events, browser)
    call("see")
    call("see")
    assert values(browser) == {"name": "Ada", "seen": [1, 1]}


def test_with_manage_session_true_events_have_a_copy_and_the_store_is_shared_all_the_same() -> None:
    app, events = make_chat(manage_session=True)
    browser = app.test_client()
    browser.get("/put/Ada")
    call = talk(app, events, browser)
    assert (call("name"), call("name", "Countess"), call("name")) == ("Ada", "Countess", "Countess")
    call("store", 1)
    assert values(browser) == {"name": "Ada", "seen": []}
    assert browser.get("/get").get_json()["store"]["event"] == 1


@pytest.mark.parametrize("event", ["in", "in by hand"])
@pytest.mark.parametrize("before", [None, "bob"])
def test_a_login_in_an_event_is_an_error_and_changes_nothing(event: str, before: str | None) -> None:
    app, events = make_chat(manage_session=False)
    browser = app.test_client()
    browser.get("/put/Ada")
    if before:
        browser.get(f"/in/{before}")
    call = talk(app, events, browser)
    with pytest.raises(ResponseStarted, match=r"from a view|before the response"):
        call(event, "ada")
    found = browser.get("/get").get_json()["session"]
    assert (found["name"], found.get("_user_id"), "note" in found) == ("Ada", before, False)


@pytest.mark.parametrize("event", ["out", "out by hand"])
def test_a_logout_in_an_event_ends_the_session(event: str) -> None:
    app, events = make_chat(manage_session=False)
    browser = app.test_client()
    browser.get("/put/Ada")
    browser.get("/in/ada")
    thief = twin(browser)
    talk(app, events, browser)(event)
    assert [values(each) for each in (browser, thief)] == [{}, {}]
    assert app.extensions["user_store"].sessions("ada") == []


@pytest.mark.parametrize("manage_session", [True, False])
def test_a_remembered_user_is_known_in_an_event_though_no_response_can_log_them_in(manage_session: bool) -> None:
    app, events = make_chat(manage_session)
    browser = app.test_client()
    browser.get("/in/ada")
    browser.delete_cookie("session")
    browser.get("/put/Ada")
    call = talk(app, events, browser)
    assert call("who") == "ada"
    assert values(browser) == {"name": "Ada", "seen": []}
