"""An app with Flask-Login, Flask-WTF, messages and Flask-SocketIO under gunicorn, used by two browsers at a time.

Promises: docs/with-other-extensions.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lost_responses import click_and_lose_the_response
from playwright.sync_api import Page, expect
from servers import Port, Server, gunicorn, running
from urls import URLS

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


def test_logins_forms_messages_and_events_of_two_browsers_lose_and_mix_up_nothing(
    server: Server, new_user: Callable[[], Page]
) -> None:
    pages = {name: new_user() for name in ("ada", "bob")}
    for name, page in pages.items():
        page.goto(server.url)
        log_in(page, name)
    for page in pages.values():
        expect(page.locator("#messages li")).to_have_text(["Welcome"])
        page.get_by_role("button", name="Many requests").click()
    for name, page in pages.items():
        expect(page.locator("#keys li")).to_have_text([f"key {number}" for number in range(8)])
        assert sorted(page.locator("#messages li").all_text_contents()) == [f"message {number}" for number in range(8)]
        page.get_by_role("button", name="Say hello").click()
        expect(page.locator("#said")).to_have_text(f"hello {name}")
        expect(page.locator("#messages li")).to_have_count(0)
    pages["ada"].get_by_role("button", name="Log out").click()
    expect(pages["ada"].locator("#who")).to_have_text("nobody")
    expect(pages["ada"].locator("#messages li")).to_have_text(["Goodbye"])
    expect(pages["ada"].locator("#keys li")).to_have_count(0)
    pages["bob"].reload()
    expect(pages["bob"].locator("#who")).to_have_text("bob")
    expect(pages["bob"].locator("#keys li")).to_have_count(8)
