"""A callback in flight while another tab logs out ends cleanly: the recipe of docs/dash.md, and what comes without it.

Promise: docs/security.md, "Clicked twice, or lost on the way".
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from documents import blocks
from playwright.sync_api import Browser, Page, expect
from servers import Port, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"
TIMEOUT = 30

RECIPE = "Log out while a callback runs"


class Site:
    """The app of docs/dash.md, whose callbacks wait for the test."""

    def __init__(self, url: str, listener: socket.socket) -> None:
        self.url = url
        self._listener = listener

    @contextmanager
    def callback_in_flight(self) -> Iterator[None]:
        """A block that runs while the next callback waits on the server."""
        callback, _ = self._listener.accept()
        with callback:
            yield
            callback.sendall(b".")


Serve = Callable[[str], AbstractContextManager[Site]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    [code] = blocks("docs/dash.md", "python")[RECIPE]
    port = Port()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        settings = {
            "SECRET_KEY": "only for these tests",
            "TEST_LISTENS_ON": str(listener.getsockname()[1]),
        }
        command = gunicorn("waiting_app:server", port.number, APPS, "--pythonpath", str(tmp_path))

        @contextmanager
        def site(without: str) -> Iterator[Site]:
            assert without in code
            (tmp_path / "app.py").write_text(code.replace(without, ""))
            with running(command, port.number, tmp_path, settings) as server:
                yield Site(server.url, listener)

        yield site
    port.close()


def save_while_another_tab_logs_out(page: Page, site: Site) -> None:
    page.goto(site.url)
    page.locator("#note").fill("Buy milk")
    page.get_by_role("button", name="Save").click()
    with site.callback_in_flight():
        other_tab = page.context.new_page()
        other_tab.goto(site.url)
        other_tab.get_by_role("button", name="Log out").click()
        other_tab.wait_for_load_state()
        other_tab.close()


def expect_to_save_after_a_reload(page: Page, site: Site) -> None:
    page.reload()
    page.locator("#note").fill("Buy bread")
    page.get_by_role("button", name="Save").click()
    with site.callback_in_flight():
        pass
    expect(page.locator("#saved")).to_have_text("Saved: Buy bread")


def test_with_the_readmes_recipe_the_user_sees_a_notice_and_goes_on_after_a_reload(
    serve: Serve, new_user: Callable[[], Page]
) -> None:
    with serve("") as site:
        page = new_user()
        save_while_another_tab_logs_out(page, site)
        expect(page.get_by_role("alert")).to_have_text("You have logged in or out elsewhere. Reload the page.")
        expect(page.locator("#saved")).to_have_text("")
        expect_to_save_after_a_reload(page, site)


def test_without_it_the_callback_is_a_409_and_the_page_goes_on_after_a_reload(serve: Serve, browser: Browser) -> None:
    with serve(", on_error=on_error") as site, browser.new_context() as context:
        page = context.new_page()
        with page.expect_response("**/_dash-update-component*") as response:
            save_while_another_tab_logs_out(page, site)
        assert response.value.status == 409
        expect(page.locator("#saved")).to_have_text("")
        expect_to_save_after_a_reload(page, site)
