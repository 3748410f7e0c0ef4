"""Requests that may begin no session: nothing is stored for them, no cookie is sent, and a write says what to do."""

from __future__ import annotations

import importlib.util
from contextvars import Context
from pathlib import Path
from types import ModuleType
from typing import Any

import apsw
import pytest
from clocks import HandClock
from dash import _get_app
from documents import blocks
from flask import Flask, Request, g, session
from flask.testing import FlaskClient
from visits import LIFETIME, SECRET, Browser, Site, nothing, read, write

from flask_dash_store import ConfigurationError, SessionRefused, UserStore, UserStoreMiddleware

TOKEN = "a token of 22 letters"


def is_browser(request: Request) -> bool:
    return "Authorization" not in request.headers


@pytest.fixture
def site(clock: HandClock, tmp_path: Path) -> Site:
    return Site(clock, tmp_path, starts_session=is_browser)


@pytest.mark.parametrize(
    ("use", "result"),
    [(nothing, None), (read, None), (dict, {}), (UserStore.describe, []), (lambda store: store.is_new, True)],
)
def test_a_refused_request_reads_an_empty_store_and_is_sent_no_cookie(site: Site, use: Any, result: Any) -> None:
    client = Browser(site)
    assert client.visit(use, HTTP_AUTHORIZATION="Bearer x") == result
    assert client.cookies_received == 0
    assert site.stored_expiries() == []


@pytest.mark.parametrize("use", [write, UserStore.clear, UserStore.regenerate, UserStore.destroy, UserStore.job_handle])
def test_a_write_of_a_refused_request_is_an_error_that_says_what_to_do_and_stores_nothing(site: Site, use: Any) -> None:
    client = Browser(site)
    with pytest.raises(SessionRefused, match=r"USER_STORE_STARTS_SESSION.*for_user\(id\)"):
        client.visit(use, HTTP_AUTHORIZATION="Bearer x")
    assert client.cookies_received == 0
    assert site.stored_expiries() == []


def test_all_others_begin_sessions_and_one_that_has_begun_goes_on(site: Site) -> None:
    browser = Browser(site)
    browser.visit(write)
    assert browser.visit(read) == "Ada"
    assert browser.visit(read, HTTP_AUTHORIZATION="Bearer x") == "Ada"  # It is asked of requests without a session.


@pytest.mark.parametrize("use", [write, UserStore.regenerate, UserStore.job_handle])
@pytest.mark.parametrize("end", ["logout", "lifetime"])
def test_a_cookie_whose_session_has_ended_begins_no_other_one(site: Site, clock: HandClock, end: str, use: Any) -> None:
    browser = Browser(site)
    browser.visit(write)
    client = browser.in_flight()
    if end == "logout":
        browser.visit(UserStore.destroy)
    clock.step(10 if end == "logout" else LIFETIME + 10)
    expiries = site.stored_expiries()
    for _ in range(2):
        assert client.visit(read, HTTP_AUTHORIZATION="Bearer x") is None
        with pytest.raises(SessionRefused):
            client.visit(use, HTTP_AUTHORIZATION="Bearer x")
    assert client.cookies_received == 0
    assert len(site.stored_expiries()) == len(expiries)
    client.visit(write)  # as a browser
    assert client.visit(read, HTTP_AUTHORIZATION="Bearer x") == "Ada"


def test_flasks_session_is_refused_in_the_same_way() -> None:
    app = Flask("site")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", TESTING=True, USER_STORE_STARTS_SESSION=is_browser)
    UserStoreMiddleware(app, flask_session=True)
    app.add_url_rule("/read", "read", lambda: str(session.get("n")))
    app.add_url_rule("/write", "write", lambda: str(session.update(n=1)))
    client = app.test_client()
    answer = client.get("/read", headers={"Authorization": "Bearer x"})
    assert (answer.text, answer.headers.get("Set-Cookie")) == ("None", None)
    with pytest.raises(SessionRefused):
        client.get("/write", headers={"Authorization": "Bearer x"})
    client.get("/write")
    assert client.get("/read").text == "1"


def test_what_cannot_be_asked_is_an_error_when_the_app_starts() -> None:
    app = Flask("site")
    app.secret_key = SECRET
    with pytest.raises(ConfigurationError, match="USER_STORE_STARTS_SESSION"):
        UserStoreMiddleware(app, starts_session=True)  # type: ignore[arg-type]


# docs/dash.md


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The app of docs/dash.md, as a module."""
    [code] = blocks("docs/dash.md", "python")["Clients that keep no cookies"]
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.setenv("ASSISTANT_TOKEN", TOKEN)
    (tmp_path / "app.py").write_text(code)
    spec = importlib.util.spec_from_file_location("app_of_dash_md", tmp_path / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _get_app.app_context.set(module.app)  # It may still be the app of an earlier test, which MCP would ask.
    module.app.server.config["USER_STORE_URL"] = f"sqlite:///{tmp_path}/store.sqlite"
    module.app.server.add_url_rule("/basket", "basket", lambda: str(g.user_store.get("basket")))
    return module


def call_tool(client: FlaskClient, item: str, headers: dict[str, str]) -> Any:
    """The answer to an assistant that calls the callback over MCP."""
    call = {"name": "buy", "arguments": {"item": item}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    # In a context of its own, as on a server: Dash notes in the context which app a request belongs to.
    return Context().run(client.post, "/_mcp", json=message, headers=headers)


def test_an_assistant_without_cookies_keeps_one_store_by_its_token_and_begins_no_session(
    app: ModuleType, tmp_path: Path
) -> None:
    assistant, browser = app.app.server.test_client(use_cookies=False), app.app.server.test_client()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answers = [call_tool(assistant, item, headers) for item in ("tea", "milk", "salt")]
    assert "tea, milk, salt" in answers[-1].text
    assert [each.headers.getlist("Set-Cookie") for each in answers] == [[], [], []]
    assert browser.get("/basket").text == "None"
    with apsw.Connection(f"{tmp_path}/store.sqlite") as database:
        assert [owner[:2] for (owner,) in database.execute('SELECT key FROM "sessions"')] == ["u."]
    assert call_tool(assistant, "tea", {"Authorization": "Bearer another"}).json["result"]["isError"]
