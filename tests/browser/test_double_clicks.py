"""Impatient users and lost responses, in Chromium: the way of docs/log-in-and-out.md loses nothing of them.

A second click makes a browser drop the response to the first one, and with it the cookie that it brings.

Promises: docs/security.md, "Clicked twice, or lost on the way".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from lost_responses import click_and_lose_the_response
from playwright.sync_api import Browser, Error, Page, expect
from servers import Port, Server, gunicorn, running

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "support" / "apps"

NewUser = Callable[[], Page]

every_timing = pytest.mark.parametrize(
    ("between", "takes"),
    [
        pytest.param(0, 100, id="at once"),
        pytest.param(50, 100, id="before the answer"),
        pytest.param(90, 100, id="just before it"),
        pytest.param(250, 250, id="just when it comes"),
        pytest.param(250, 100, id="after it"),
    ],
)


def settings_of(folder: Path) -> tuple[list[str], dict[str, str]]:
    options = ["--pythonpath", str(ROOT / "examples")]
    return options, {
        "FLASK_SECRET_KEY": "only for these tests",
        "FLASK_USER_STORE_URL": f"sqlite:///{folder}/it.sqlite",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("clicks"), Port()
    options, settings = settings_of(folder)
    command = gunicorn("troubled_flask_app:server", port.number, APPS, *options)
    with running(command, port.number, folder, settings) as server:
        yield server
    port.close()


@contextmanager
def running_with_tracebacks(folder: Path) -> Iterator[Server]:
    port = Port()
    options, settings = settings_of(folder)
    server = Server(gunicorn("troubled_flask_app:server", port.number, APPS, *options), port.number, folder, settings)
    try:
        server.wait_until_it_answers()
        yield server
    finally:
        server.stop()
        port.close()


# What a user does


def start(page: Page, server: Server) -> None:
    """Count to two, and write a note."""
    for _ in range(2):
        page.request.post(f"{server.url}/count")
    page.request.post(f"{server.url}/notes", form={"note": "Buy milk"})
    page.goto(server.url)
    expect(page.locator("#count")).to_have_text("2")
    expect(page.locator("#notes li")).to_have_text(["Buy milk"])


def log_in(page: Page) -> None:
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#name")).to_have_text("Ada")


def server_takes(page: Page, milliseconds: int) -> None:
    page.set_extra_http_headers({"Takes": str(milliseconds)})


def area_of(page: Page, button: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    box = page.get_by_role("button", name=button).bounding_box()
    assert box is not None
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


def middle_of(page: Page, button: str) -> tuple[float, float]:
    left, top, right, bottom = area_of(page, button)
    return (left + right) / 2, (top + bottom) / 2


def click_twice(page: Page, button: str, between: int) -> None:
    """Two clicks of the mouse, without moving it: the second one meets what is there by then."""
    at = middle_of(page, button)
    page.mouse.click(*at)
    page.wait_for_timeout(between)
    page.mouse.click(*at)


def click_and_reload(page: Page, button: str, between: int) -> None:
    """Reload once the form is sent, by an address that is not the form's, which tells the two pages apart."""
    with page.expect_request(re.compile("/log(in|out)$")):  # A form that is sent later would replace the reload.
        page.mouse.click(*middle_of(page, button))
    page.wait_for_timeout(between)
    reloaded = f"{page.url}?reloaded"
    with suppress(Error):  # When the form's page comes first, Playwright takes the reload for interrupted.
        page.goto(reloaded)
    expect(page).to_have_url(reloaded)
    page.wait_for_load_state()


def expect_logged_in_with_everything(page: Page) -> None:
    expect(page.locator("#name")).to_have_text("Ada")
    expect(page.locator("#count")).to_have_text("2")
    expect(page.locator("#notes li")).to_have_text(["Buy milk"])
    page.get_by_role("button", name="Count").click()
    expect(page.locator("#count")).to_have_text("3")
    page.reload()
    expect(page.locator("#name")).to_have_text("Ada")
    expect(page.locator("#count")).to_have_text("3")


def expect_logged_out_with_nothing(page: Page) -> None:
    expect(page.get_by_label("Your name")).to_be_visible()
    expect(page.locator("#count")).to_have_text("0")
    expect(page.locator("#notes li")).to_have_text(["No notes yet."])


# Two clicks


@every_timing
def test_a_double_click_on_log_in_logs_in_and_keeps_everything(
    server: Server, new_user: NewUser, between: int, takes: int
) -> None:
    page = new_user()
    start(page, server)
    page.get_by_label("Your name").fill("Ada")
    server_takes(page, takes)
    click_twice(page, "Log in", between)
    expect_logged_in_with_everything(page)


@every_timing
def test_a_double_click_on_log_out_logs_out_and_the_next_session_works(
    server: Server, new_user: NewUser, between: int, takes: int
) -> None:
    page = new_user()
    start(page, server)
    log_in(page)
    server_takes(page, takes)
    click_twice(page, "Log out", between)
    expect_logged_out_with_nothing(page)
    page.get_by_role("button", name="Count").click()
    expect(page.locator("#count")).to_have_text("1")


@every_timing
def test_a_user_who_reloads_while_logging_in_and_logs_in_again_keeps_everything(
    server: Server, new_user: NewUser, between: int, takes: int
) -> None:
    page = new_user()
    start(page, server)
    page.get_by_label("Your name").fill("Ada")
    server_takes(page, takes)
    click_and_reload(page, "Log in", between)
    if page.get_by_label("Your name").is_visible():
        log_in(page)
    expect_logged_in_with_everything(page)


@every_timing
def test_a_user_who_reloads_while_logging_out_is_logged_out_by_another_click_at_the_latest(
    server: Server, new_user: NewUser, between: int, takes: int
) -> None:
    page = new_user()
    start(page, server)
    log_in(page)
    server_takes(page, takes)
    click_and_reload(page, "Log out", between)
    if page.locator("#name").is_visible():
        page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Your name")).to_be_visible()
    page.goto(server.url)  # The view may have read the count before the session's end, and the name after it.
    expect_logged_out_with_nothing(page)


@pytest.mark.parametrize("width", [360, 1280])
def test_where_log_in_was_no_button_appears(server: Server, new_user: NewUser, width: int) -> None:
    page = new_user()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(server.url)
    left, top, right, bottom = area_of(page, "Log in")
    log_in(page)
    for button in ("Log out", "Count", "Add"):
        other_left, other_top, other_right, other_bottom = area_of(page, button)
        assert other_right <= left or right <= other_left or other_bottom <= top or bottom <= other_top, button


# Lost responses


def test_after_a_login_whose_response_was_lost_another_one_finds_everything(server: Server, new_user: NewUser) -> None:
    page = new_user()
    start(page, server)
    page.get_by_label("Your name").fill("Ada")
    click_and_lose_the_response(page, "Log in", "/login")
    page.goto(server.url)
    log_in(page)
    expect_logged_in_with_everything(page)


@pytest.mark.parametrize("what", ["view", "teardown"])
def test_after_a_login_that_raised_another_one_finds_everything(browser: Browser, tmp_path: Path, what: str) -> None:
    with running_with_tracebacks(tmp_path) as server, browser.new_context() as context:
        page = context.new_page()
        start(page, server)
        page.get_by_label("Your name").fill("Ada")
        page.set_extra_http_headers({"Fails": what})
        with page.expect_response(re.compile("/login$")) as response:
            page.get_by_role("button", name="Log in").click()
        assert response.value.status == 500
        assert "ZeroDivisionError" in server.log
        page.set_extra_http_headers({})
        page.goto(server.url)
        if page.get_by_label("Your name").is_visible():
            log_in(page)
        expect_logged_in_with_everything(page)
