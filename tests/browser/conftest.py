"""A real Chromium, and a browser context with its own cookies for each user."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright
from servers import FOR_FORKED_JOBS, Port, gunicorn, running

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 30_000

APPS = Path(__file__).parents[1] / "support" / "apps"

expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="module")  # Playwright's event loop runs until it stops, and other modules' tests run their own.
def browser() -> Iterator[Browser]:
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.fail(
            "There is no Chromium. Install one (Debian: apt-get install chromium), or set CHROMIUM to its path.",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def watching_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app whose callbacks watch the store, on two workers."""
    folder = tmp_path_factory.mktemp("site")
    with (
        closing(Port()) as port,
        running(
            gunicorn("watching_app:server", port.number, APPS, *FOR_FORKED_JOBS),
            port.number,
            folder,
            {"TEST_FOLDER": str(folder)},
        ) as server,
    ):
        yield server.url


@pytest.fixture
def new_user(browser: Browser) -> Iterator[Callable[[], Page]]:
    """Makes users: a page each, with cookies of its own. Whatever goes wrong in a page fails the test."""
    contexts, faults = [], []

    def note_failed(response: Response) -> None:
        if response.status >= 400:
            faults.append(f"{response.status} {response.request.method} {response.url}")

    def make() -> Page:
        context = browser.new_context()
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("response", note_failed)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not faults
