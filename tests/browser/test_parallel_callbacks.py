"""Callbacks that Dash sends in parallel, to any thread of any worker, lose nothing of each other's.

Two users load the page side by side. Each load fires eight callbacks, each of which writes its own key.

Promise: docs/reliability.md, "Acknowledged means stored". It is what Flask-Session's users report:
https://github.com/pallets-eco/flask-session/issues/71.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import soak
from playwright.sync_api import Page
from servers import Port, gunicorn, running, uvicorn

APPS = Path(__file__).parents[1] / "support" / "apps"
KEYS = [f"key-{number}" for number in range(8)]


class User:
    """A user with a browser."""

    def __init__(self, name: str, page: Page, url: str) -> None:
        self.name = name
        self.page = page
        self.url = url
        self.sessions: list[str] = []
        page.context.add_cookies([{"name": "tester", "value": name, "url": url}])

    def start_to_load(self) -> None:
        self.page.goto(self.url, wait_until="commit")

    def check_what_was_stored(self) -> None:
        stored: dict[str, Any] = json.loads(self.page.wait_for_selector("#report:not(:empty)").inner_text())
        load = self.page.locator("#load").inner_text()
        assert stored["values"] == dict.fromkeys(KEYS, f"{self.name} {load}")
        self.sessions.append(stored["session"])

    def forget_session(self) -> None:
        self.page.context.clear_cookies(name="user_store")


class Site:
    """The app under gunicorn, its two users, and its database."""

    def __init__(self, url: str, new_user: Callable[[], Page], database: Path) -> None:
        self.users = [User(name, new_user(), url) for name in ("ada", "bob")]
        self.database = database

    def load_page(self) -> None:
        for user in self.users:
            user.start_to_load()
        for user in self.users:
            user.check_what_was_stored()

    def expect_sessions_each(self, number: int) -> None:
        ada, bob = ({*user.sessions} for user in self.users)
        assert (len(ada), len(bob), ada & bob) == (number, number, set())
        with closing(sqlite3.connect(self.database)) as connection:
            stored = connection.execute('SELECT count(*) FROM "sessions"').fetchone()[0]
        assert stored == 2 * number, "a callback was given a session of its own"


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path, new_user: Callable[[], Page]) -> Iterator[Site]:
    serve, call, options = getattr(request, "param", (gunicorn, "make_server()", []))
    database = tmp_path / "store.sqlite"
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": f"sqlite:///{database}"}
    port = Port()
    with running(serve(f"parallel_app:{call}", port.number, APPS, *options), port.number, tmp_path, settings) as it:
        yield Site(it.url, new_user, database)
    port.close()


def test_every_load_of_many_ends_with_the_users_one_session_and_its_eight_keys(site: Site) -> None:
    for _ in range(soak.repeats(ci=8, soak=200)):
        site.load_page()
    site.expect_sessions_each(1)


@pytest.mark.parametrize(
    "site",
    [
        pytest.param((gunicorn, "make_server()", ["--preload"]), id="preload"),
        pytest.param((gunicorn, "make_server(use_async=True)", ["--preload"]), id="async-preload"),
    ],
    indirect=True,
)
def test_it_holds_after_a_fork_and_in_async_callbacks(site: Site) -> None:
    for _ in range(soak.repeats(ci=4, soak=100)):
        site.load_page()
    site.expect_sessions_each(1)


def test_the_callbacks_of_a_first_visit_share_one_session_too(site: Site) -> None:
    visits = soak.repeats(ci=5, soak=100)
    for _ in range(visits):
        site.load_page()
        for user in site.users:
            user.forget_session()
    site.expect_sessions_each(visits)


@pytest.mark.parametrize(
    "site",
    [pytest.param((uvicorn, "fastapi", []), id="fastapi"), pytest.param((uvicorn, "quart", []), id="quart-async")],
    indirect=True,
)
def test_every_load_ends_so_on_the_other_servers_of_dash_too(site: Site) -> None:
    for _ in range(soak.repeats(ci=4, soak=200)):
        site.load_page()
    site.expect_sessions_each(1)
