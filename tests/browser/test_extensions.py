"""An app with Flask-Login, Flask-WTF, messages and Flask-SocketIO under gunicorn, used by two browsers at a time.

Promises: docs/with-other-extensions.md
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lost_responses import click_and_lose_the_response
from playwright.sync_api import Page, expect
from servers import Port, Server, gunicorn, running
from urls import URLS

TIMEOUT = 30
REQUESTS = [f"request-{number}" for number in range(8)]
EVENTS = [f"event-{number}" for number in range(4)]
APPS = Path(__file__).parents[1] / "support" / "apps"


@pytest.fixture(scope="module", params=URLS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("extensions"), Port()
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": URLS[request.param](folder)}
    command = gunicorn("extensions_app:server", port.number, APPS)
    with running(command, port.number, folder, settings) as server:
        yield server
    port.close()


def log_in(page: Page, name: str) -> None:
    page.get_by_placeholder("Name").fill(name)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#who")).to_have_text(name)


def test_after_a_login_whose_response_was_lost_another_forms_token_is_accepted(
    server: Server, new_user: Callable[[], Page]
) -> None:
    page = new_user()
    page.goto(server.url)
    page.get_by_placeholder("Name").fill("ada")
    click_and_lose_the_response(page, "Log in", "/login")
    page.goto(server.url)
    log_in(page, "ada")


class Member:
    """A user who has logged in with a browser, and whose page is connected."""

    def __init__(self, name: str, page: Page, url: str) -> None:
        self.name = name
        self.page = page
        page.goto(url)
        assert page.request.post(f"{url}/login").status == 400  # Without the form's token, which is in the session.
        log_in(page, name)
        expect(page.locator("#messages li")).to_have_text(["Welcome"])
        page.evaluate("async () => { window.say = await connect(); }")

    def do(self, expression: str) -> Any:
        return self.page.evaluate(f"() => {expression}")

    def begin(self, expression: str, argument: Any) -> None:
        """Begin what :meth:`finish` waits for."""
        self.page.evaluate(f"argument => {{ window.begun = {expression}; }}", argument)

    def finish(self) -> Any:
        return self.page.evaluate("() => window.begun")

    def keep_all_at_once(self) -> None:
        requests = "...argument[0].map(key => post(`/keep/${key}`))"
        events = "...argument[1].map(key => say('keep', key))"
        self.begin(f"Promise.all([{requests}, {events}])", [REQUESTS, EVENTS])

    def has(self, *more: str) -> dict[str, str]:
        """What is kept when nothing is lost, and nothing is another's."""
        return {f"key {key}": self.name for key in (*REQUESTS, *EVENTS, *more)}


def test_logins_forms_messages_and_events_of_two_browsers_lose_and_mix_up_nothing(
    server: Server, new_user: Callable[[], Page]
) -> None:
    ada, bob = (Member(name, new_user(), server.url) for name in ("ada", "bob"))
    for member in (ada, bob):
        member.keep_all_at_once()
    for member in (ada, bob):
        assert member.finish() == [{"name": member.name}] * (len(REQUESTS) + len(EVENTS))
    for member in (ada, bob):
        assert member.do("get('/kept')") == member.do("say('kept')") == member.has()
        assert sorted(member.do("get('/messages')")) == [f"{member.name} keeps {key}" for key in REQUESTS]
        assert member.do("get('/messages')") == []

    # Two sockets and this leave a thread of either worker free.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        ada.begin("post('/slow/late', argument)", listener.getsockname()[1])
        view = listener.accept()[0]
    ada.do("fetch('/logout', {method: 'POST', headers})")
    bob.do("post('/keep/late')")
    view.sendall(b".")
    view.close()
    assert ada.finish() == {"name": "ada"}

    assert ada.do("get('/kept')") == ada.do("say('kept')") == {}
    ada.page.reload()
    expect(ada.page.locator("#who")).to_have_text("nobody")
    assert bob.do("get('/kept')") == bob.do("say('kept')") == bob.has("late")
    assert bob.do("get('/messages')") == ["bob keeps late"]
