"""Dash's dev tools show a developer in Chromium what the visitor has stored, delete a key, and clear all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect
from servers import Port, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"


def test_the_dev_tools_show_the_visitors_keys_delete_one_and_clear_all(
    new_user: Callable[[], Page], tmp_path: Path
) -> None:
    port = Port()
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": f"sqlite:///{tmp_path}/s.sqlite"}
    command = gunicorn("debug_app:server", port.number, APPS, "--workers", "1")
    with running(command, port.number, tmp_path, settings) as server:
        page = new_user()
        page.goto(server.url)
        page.get_by_role("button", name="User store").click()
        panel = page.get_by_role("region", name="User store")
        expect(panel).to_contain_text("Nothing is stored.")
        page.get_by_role("button", name="Fill").click()
        expect(page.locator("#filled")).to_have_text("Filled")
        panel.get_by_role("button", name="Refresh").click()
        expect(panel).to_contain_text("3 keys, 2.4 MB")
        rows = panel.locator("tbody tr")
        expect(rows.nth(0)).to_contain_text("with the session")
        expect(rows.nth(2)).to_contain_text("large")
        expect(panel).not_to_contain_text("half price")
        rows.nth(1).get_by_role("button", name="Delete").click()
        expect(panel.locator(".key")).to_have_text(["cart", "measurements"])
        panel.get_by_role("button", name="Clear").click()
        expect(panel).to_contain_text("Nothing is stored.")
        page.get_by_role("button", name="User store").click()
        expect(panel).to_have_count(0)
    port.close()
