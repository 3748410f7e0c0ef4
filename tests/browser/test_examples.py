"""Each example does in a real browser what it says, as it is: a copy of the folder, and no setting."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from servers import Port, Server, gunicorn, running

EXAMPLES = Path(__file__).parents[2] / "examples"

NewUser = Callable[[], Page]
Serve = Callable[[str], AbstractContextManager[Server]]


@pytest.fixture(params=["python", "gunicorn"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serve]:
    """Serves an example by its name, on the same port each time."""
    # A copy, for an example keeps its database and its key beside itself.
    examples = shutil.copytree(
        EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("instance", "__pycache__")
    )
    port = Port()

    @contextmanager
    def serve(name: str) -> Iterator[Server]:
        if request.param == "python":
            command = [sys.executable, str(examples / f"{name}.py"), "--port", str(port.number)]
        else:
            command = gunicorn(f"{name}:server", port.number, examples)
        with running(command, port.number, tmp_path, {"PYTHONWARNINGS": "default"}) as server:
            yield server
        assert "Warning:" not in server.log, server.log

    yield serve
    port.close()


def enter(page: Page, value: str) -> None:
    page.get_by_label("Your value").fill(value)
    page.get_by_role("button", name="OK").click()
    expect(page.locator("#saved")).to_contain_text("saved", ignore_case=True)


# dash_app.py


def open_tab_and_expect(page: Page, shown: str) -> None:
    page.get_by_text("See the value", exact=True).click()
    expect(page.locator("#shown")).to_have_text(shown)
    expect(page).not_to_have_title("Updating...")  # A callback that is on its way would fail when its server stops.


def test_dash_app_shows_each_user_their_own_value_after_a_reload_and_a_restart(serve: Serve, new_user: NewUser) -> None:
    ada, bob, _ = users = new_user(), new_user(), new_user()
    shown = ["forty-two", "<b>seven</b>", "nothing yet"]
    with serve("dash_app") as server:
        for page in users:
            page.goto(server.url)
        enter(ada, shown[0])
        enter(bob, shown[1])
        for page, text in zip(users, shown, strict=True):
            open_tab_and_expect(page, text)
            page.reload()
            open_tab_and_expect(page, text)
    with serve("dash_app"):
        for page, text in zip(users, shown, strict=True):
            page.reload()
            open_tab_and_expect(page, text)


def test_dash_app_takes_the_enter_key_and_refuses_an_empty_value(serve: Serve, new_user: NewUser) -> None:
    page = new_user()
    with serve("dash_app") as server:
        page.goto(server.url)
        page.get_by_label("Your value").press("Enter")
        expect(page.locator("#saved")).to_have_text("Enter something first.")
        page.get_by_label("Your value").fill("seven")
        page.get_by_label("Your value").press("Enter")
        expect(page.locator("#saved")).to_have_text("Saved. Now look at the other tab.")
        open_tab_and_expect(page, "seven")


# flask_app.py


def expect_on_page(page: Page, count: int, notes: list[str]) -> None:
    expect(page.locator("#count")).to_have_text(str(count))
    expect(page.locator("#notes li")).to_have_text(notes or ["No notes yet."])


def add_note(page: Page, note: str) -> None:
    page.get_by_label("A new note").fill(note)
    page.get_by_role("button", name="Add").click()


def cookie_of(page: Page) -> str:
    return next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "user_store")


def test_flask_app_counts_and_keeps_notes_for_each_user(serve: Serve, new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    with serve("flask_app") as server:
        for page in (ada, bob):
            page.goto(server.url)
            expect_on_page(page, 0, [])
        for _ in range(3):
            ada.get_by_role("button", name="Count").click()
        add_note(ada, "Buy milk")
        add_note(ada, "<script>alert(1)</script>")
        add_note(bob, "Call Ada")
        for _ in range(2):
            expect_on_page(ada, 3, ["Buy milk", "<script>alert(1)</script>"])
            expect_on_page(bob, 0, ["Call Ada"])
            ada.reload()
            bob.reload()


def test_flask_app_keeps_the_values_at_login_and_drops_them_at_logout(serve: Serve, new_user: NewUser) -> None:
    ada, thief = new_user(), new_user()
    with serve("flask_app") as server:
        ada.goto(server.url)
        add_note(ada, "Buy milk")
        before = cookie_of(ada)
        ada.get_by_label("Your name").fill("Ada")
        ada.get_by_role("button", name="Log in").click()
        expect(ada.locator("#name")).to_have_text("Ada")
        expect_on_page(ada, 0, ["Buy milk"])
        logged_in = cookie_of(ada)

        ada.get_by_role("button", name="Log out").click()
        expect(ada.get_by_label("Your name")).to_be_visible()
        expect_on_page(ada, 0, [])

        assert len({before, logged_in, cookie_of(ada)}) == 3
        for stolen in (before, logged_in):
            thief.context.add_cookies([{"name": "user_store", "value": stolen, "url": server.url}])
            thief.goto(server.url)
            expect(thief.get_by_label("Your name")).to_be_visible()
            expect_on_page(thief, 0, [])


def test_flask_app_takes_a_second_tab_that_logs_in_too(serve: Serve, new_user: NewUser) -> None:
    ada = new_user()
    with serve("flask_app") as server:
        ada.goto(server.url)
        other_tab = ada.context.new_page()
        other_tab.goto(server.url)
        for page, name in ((ada, "Ada"), (other_tab, "Countess")):
            page.get_by_label("Your name").fill(name)
            page.get_by_role("button", name="Log in").click()
            expect(page.locator("#name")).to_have_text(name)


def test_flask_app_refuses_what_another_site_posts(serve: Serve, browser: Browser) -> None:
    context = browser.new_context()
    with serve("flask_app") as server:
        ada = context.new_page()
        ada.goto(server.url)
        add_note(ada, "Buy milk")
        evil = context.new_page()
        evil.goto(server.url.replace("127.0.0.1", "localhost"))  # the same server, but for the browser another site
        evil.evaluate("url => document.forms[0].action = url", f"{server.url}/login")
        evil.get_by_label("Your name").fill("Eve")
        with evil.expect_navigation() as navigation:
            evil.get_by_role("button", name="Log in").click()
        assert navigation.value is not None
        assert navigation.value.status == 403
        ada.reload()
        expect(ada.get_by_label("Your name")).to_be_visible()
        expect_on_page(ada, 0, ["Buy milk"])
    context.close()


# parallel_callbacks.py


def expect_all_cards(page: Page, text: str) -> None:
    expect(page.locator(".card span")).to_have_text([re.compile(text)] * 8)


def test_parallel_callbacks_shows_all_eight_keys_after_each_click(serve: Serve, new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    with serve("parallel_callbacks") as server:
        for page in (ada, bob):
            page.goto(server.url)
            expect_all_cards(page, "not written yet")
        for click in (1, 2, 3):
            ada.get_by_role("button", name="Fire").click()
            expect_all_cards(ada, f"click {click},")
        for page, text in ((ada, "click 3,"), (bob, "not written yet")):
            page.reload()
            expect_all_cards(page, text)


# dash_database_app.py


def retrieve_and_expect(page: Page, text: str) -> None:
    page.bring_to_front()  # a tab in the background draws seldom, and Playwright waits for it
    page.get_by_text("Retrieve the value", exact=True).click()
    page.get_by_role("button", name="Show me the value").click()
    expect(page.locator("#shown")).to_have_text(text)


def test_dash_database_app_keeps_a_value_for_each_browser_tab(serve: Serve, new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    with serve("dash_database_app") as server:
        ada.goto(server.url)
        other_tab = ada.context.new_page()
        for page in (bob, other_tab):
            page.goto(server.url)
        enter(ada, "monkey")
        enter(bob, "green")
        retrieve_and_expect(other_tab, "You have not saved a value yet.")
        retrieve_and_expect(ada, "Your value is monkey")
        retrieve_and_expect(bob, "Your value is green")
    with serve("dash_database_app"):
        for page, text in ((ada, "Your value is monkey"), (bob, "Your value is green")):
            page.reload()
            retrieve_and_expect(page, text)
