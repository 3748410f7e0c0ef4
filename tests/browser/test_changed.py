"""Callbacks with ``Changed`` fire when a key of the visitor's store has changed, whatever changed it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dash_jobs import no_questions, wait_for_end_of_process
from playwright.sync_api import Page, expect

POLL = "/_user-store/changed"
INTERVAL_MS = 1000


@pytest.fixture
def page(watching_site: str, new_user: Callable[[], Page]) -> Page:
    """A new visitor's page, whose callbacks have been called once."""
    page = new_user()
    open_page(page, watching_site)
    return page


def open_page(page: Page, site: str) -> None:
    page.goto(site)
    expect(page.locator("#calls")).to_have_text("1")
    expect(page.locator("#done")).to_have_text("None")


def wait_for_polls(page: Page) -> None:
    """Until whatever was written before has been answered to a poll that was made after it."""
    for _ in range(2):
        with page.expect_response(f"**{POLL}"):
            pass


def script_to_let_it_be(state: str) -> str:
    return (
        f"Object.defineProperty(document, 'visibilityState', {{value: '{state}', configurable: true}});"
        "document.dispatchEvent(new Event('visibilitychange'));"
    )


def let_page_be(page: Page, state: str) -> None:
    """Let the page believe that the browser shows it, or does not."""
    page.evaluate(script_to_let_it_be(state))


def note_polls(page: Page, polls: list[str]) -> None:
    page.on("request", lambda request: polls.append(request.url) if request.url.endswith(POLL) else None)


def test_a_callback_that_writes_fires_those_that_watch_with_its_own_response(page: Page) -> None:
    page.route(f"**{POLL}", lambda route: route.abort())
    page.locator("#add").click()
    expect(page.locator("#cart")).to_have_text("apple")
    expect(page.locator("#calls")).to_have_text("2")
    expect(page.locator("#any")).to_have_text("cart")
    page.locator("#move").click()
    expect(page.locator("#two")).to_have_text("1 1")
    page.locator("#clear").click()
    expect(page.locator("#cart")).to_have_text("")
    expect(page.locator("#two")).to_have_text("None None")
    expect(page.locator("#any")).to_have_text("")
    expect(page.locator("#calls")).to_have_text("3")


def test_the_job_of_a_background_callback_fires_them_while_it_runs_and_has_the_tabs_store(
    page: Page, watching_site: str
) -> None:
    page.locator("#note").fill("Ann")
    page.locator("#save").click()
    expect(page.locator("#saved")).to_have_text("saved Ann, 1 here, 0 of all")
    page.locator("#job").click()
    expect(page.locator("#two")).to_have_text("from a job None")
    expect(page.locator("#job-done")).to_have_text("")
    with no_questions(page) as job:
        page.request.get(f"{watching_site}/end-jobs")
        wait_for_end_of_process(job)
    expect(page.locator("#job-done")).to_have_text("done for the tab of Ann")


def test_what_is_rolled_back_and_what_is_not_watched_fire_nothing(page: Page) -> None:
    for button in ("roll-back", "other"):
        page.locator(f"#{button}").click()
        expect(page.locator("#done")).to_have_text(button)
    expect(page.locator("#any")).to_have_text("count,other")
    wait_for_polls(page)
    expect(page.locator("#calls")).to_have_text("1")


def test_what_another_tab_and_a_view_write_fires_within_a_poll_and_not_on_a_strangers_page(
    page: Page, watching_site: str, new_user: Callable[[], Page]
) -> None:
    stranger = new_user()
    open_page(stranger, watching_site)
    other_tab = page.context.new_page()
    open_page(other_tab, watching_site)
    other_tab.locator("#add").click()
    expect(page.locator("#cart")).to_have_text("apple")
    page.request.get(f"{watching_site}/add")
    for each in (page, other_tab):
        expect(each.locator("#cart")).to_have_text("apple,pear")
        expect(each.locator("#calls")).to_have_text("3")
    wait_for_polls(stranger)
    expect(stranger.locator("#calls")).to_have_text("1")


def test_a_hidden_page_polls_not_at_all_and_asks_at_once_when_it_is_shown(
    watching_site: str, new_user: Callable[[], Page]
) -> None:
    page = new_user()
    page.clock.install()
    open_page(page, watching_site)
    with page.expect_response(f"**{POLL}"):
        page.clock.run_for(INTERVAL_MS)

    let_page_be(page, "hidden")
    polls: list[str] = []
    note_polls(page, polls)
    page.clock.run_for(20 * INTERVAL_MS)
    assert polls == []
    page.request.get(f"{watching_site}/add")
    let_page_be(page, "visible")
    expect(page.locator("#cart")).to_have_text("pear")


def test_after_errors_a_page_polls_less_often(watching_site: str, new_user: Callable[[], Page]) -> None:
    page = new_user()
    page.clock.install(time=0)
    page.add_init_script(script_to_let_it_be("hidden"))  # So no poll is under way when the clock stops.
    open_page(page, watching_site)
    page.clock.pause_at(3600)
    page.route(f"**{POLL}", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        let_page_be(page, "visible")
    polls: list[str] = []
    note_polls(page, polls)
    for wait_ms in (2000, 4000, 8000, 16_000, 30_000, 30_000):
        page.clock.run_for(wait_ms - 100)
        assert polls == []
        with page.expect_event("requestfailed"):
            page.clock.run_for(100)
        polls.clear()
