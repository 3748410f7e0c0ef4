"""Each browser tab has a store of its own, which outlives a reload."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect


@pytest.fixture
def page(watching_site: str, new_user: Callable[[], Page]) -> Page:
    page = new_user()
    page.goto(watching_site)
    return page


def save(page: Page, note: str) -> None:
    page.locator("#note").fill(note)
    page.locator("#save").click()
    expect(page.locator("#saved")).to_have_text(f"saved {note}, 1 here, 0 of all")


def test_a_tabs_values_survive_a_reload_and_other_tabs_have_their_own(page: Page, watching_site: str) -> None:
    expect(page.locator("#note-in-layout")).to_have_text("")
    save(page, "first")
    other_tab = page.context.new_page()
    other_tab.goto(watching_site)
    expect(other_tab.locator("#note-in-layout")).to_have_text("")
    save(other_tab, "second")
    page.reload()
    expect(page.locator("#note-in-layout")).to_have_text("first")
    page.goto("about:blank")
    page.go_back()
    expect(page.locator("#note-in-layout")).to_have_text("first")


def test_a_tab_that_is_duplicated_has_its_own_and_leaves_the_others(page: Page, watching_site: str) -> None:
    save(page, "first")
    name = page.evaluate("sessionStorage.getItem('user-store-tab')")
    duplicate = page.context.new_page()
    # What the browser copies when it duplicates a tab.
    duplicate.add_init_script(
        f"sessionStorage.getItem('user-store-tab') || sessionStorage.setItem('user-store-tab', '{name}')"
    )
    duplicate.goto(watching_site)
    expect(duplicate.locator("#note-in-layout")).to_have_text("")
    save(duplicate, "second")
    duplicate.reload()
    expect(duplicate.locator("#note-in-layout")).to_have_text("second")
    page.reload()
    expect(page.locator("#note-in-layout")).to_have_text("first")
