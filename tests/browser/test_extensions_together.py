"""Flask-Login, Flask-WTF, flashed messages and Flask-SocketIO in one app, all of them over ``flask.session``.

Two members use it side by side in Chromium, under gunicorn with 2 workers of 4 threads. Their pages make requests in
parallel, and events over a WebSocket beside them. On each backend.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from servers import Port, Server, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"
TIMEOUT = 30
REQUESTS = [f"request-{number}" for number in range(8)]
EVENTS = [f"event-{number}" for number in range(4)]


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[Server]:
    port = Port()
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": url}
    with running(gunicorn("club_app:server", port.number, APPS), port.number, tmp_path, settings) as server:
        yield server
    port.close()


class Member:
    """A member with a browser, who has logged in and is connected."""

    def __init__(self, name: str, page: Page, url: str) -> None:
        self.name = name
        self.page = page
        page.goto(url)
        # Without the token of the page's form, which is in the session, nothing is done.
        assert page.request.post(f"{url}/log-in/{name}").status == 400
        assert self.do(f"post('/log-in/{name}')") == {"name": name}
        page.reload()
        expect(page.locator("#name")).to_have_text(name)
        page.evaluate("async () => { window.say = await connect(); }")

    def do(self, expression: str, argument: Any = None) -> Any:
        return self.page.evaluate(f"argument => {expression}", argument)

    def begin(self, expression: str, argument: Any = None) -> None:
        """Begin what :meth:`finish` waits for."""
        self.page.evaluate(f"argument => {{ window.begun = {expression}; }}", argument)

    def finish(self) -> Any:
        return self.page.evaluate("() => window.begun")

    def keep_all_at_once(self) -> None:
        requests = "...argument[0].map(key => post(`/keep/${key}`))"
        events = "...argument[1].map(key => say('keep', key))"
        self.begin(f"Promise.all([{requests}, {events}])", [REQUESTS, EVENTS])

    def has(self, *more: str) -> dict[str, Any]:
        """What is shown when nothing is lost, and nothing is another's."""
        return {"name": self.name, "kept": {f"kept-{key}": self.name for key in (*REQUESTS, *EVENTS, *more)}}


def test_two_members_side_by_side_lose_nothing_and_see_nothing_of_each_other(
    server: Server, new_user: Callable[[], Page]
) -> None:
    ada, bob = (Member(name, new_user(), server.url) for name in ("ada", "bob"))
    for member in (ada, bob):
        member.keep_all_at_once()
    for member in (ada, bob):
        assert member.finish() == [{"name": member.name}] * (len(REQUESTS) + len(EVENTS))
    for member in (ada, bob):
        assert member.do("get('/kept')") == member.do("say('show')") == member.has()
        assert sorted(member.do("get('/messages')")) == [f"{member.name} keeps {key}" for key in REQUESTS]
        assert member.do("get('/messages')") == []

    # Two sockets and this leave a thread of either worker free.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        ada.begin("post('/slow/late', argument)", listener.getsockname()[1])
        view = listener.accept()[0]
    ada.do("post('/log-out')")
    bob.do("post('/keep/late')")
    view.sendall(b".")
    view.close()
    assert ada.finish() == {"name": "ada"}

    nothing = {"name": None, "kept": {}}
    assert ada.do("get('/kept')") == ada.do("say('show')") == nothing
    assert ada.do("get('/messages')") == []
    ada.page.reload()
    expect(ada.page.locator("#name")).to_have_text("nobody")
    assert bob.do("get('/kept')") == bob.do("say('show')") == bob.has("late")
    assert bob.do("get('/messages')") == ["bob keeps late"]
