"""Callbacks over Dash's websocket, which all tabs of a browser share, under uvicorn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from servers import Port, running, uvicorn

APPS = Path(__file__).parents[1] / "support" / "apps"
TIMEOUT = 30.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    environ = {"SECRET": "only for these tests", "URL": f"sqlite:///{folder}/store.sqlite"}
    with (
        closing(Port()) as port,
        running(uvicorn("tab_socket_app:make", port.number, APPS), port.number, folder, environ) as server,
    ):
        yield server.url


def save(page: Page, note: str, shown: str) -> None:
    page.locator("#note").fill(note)
    page.locator("#save").click()
    expect(page.locator("#saved")).to_have_text(shown)


def test_each_tab_has_its_own_store_over_the_socket_that_they_share(site: str, new_user: Callable[[], Page]) -> None:
    page = new_user()
    page.goto(site)
    save(page, "first", "1 by a websocket: first, 1 here, of None")
    other_tab = page.context.new_page()
    other_tab.goto(site)
    expect(other_tab.locator("#saved")).to_have_text("0 by a websocket: None, 0 here, of None")
    save(other_tab, "second", "1 by a websocket: second, 1 here, of None")
    for tab in (page, other_tab):
        expect(tab.locator("#name")).to_have_text("saved as second")
    page.reload()
    expect(page.locator("#note")).to_have_value("first")
    expect(page.locator("#saved")).to_have_text("0 by a websocket: first, 1 here, of None")


def test_after_a_login_over_http_the_next_callback_over_the_socket_has_the_new_session(
    site: str, new_user: Callable[[], Page]
) -> None:
    page = new_user()
    page.goto(site)
    save(page, "first", "1 by a websocket: first, 1 here, of None")
    page.evaluate("fetch('/login/ada')")
    deadline = time.monotonic() + TIMEOUT
    while page.locator("#user").text_content() != "ada":
        assert time.monotonic() < deadline, "no callback has the new session"
        page.locator("#ask").click()
        page.wait_for_timeout(50)
    save(page, "second", "2 by a websocket: second, 1 here, of ada")
    page.reload()
    expect(page.locator("#saved")).to_have_text("0 by a websocket: second, 1 here, of ada")
