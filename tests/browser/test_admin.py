"""The admin page in Chromium, on two workers: an operator looks, searches, ends a session, purges and backs up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from servers import Port, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"
SESSIONS = 30

NewUser = Callable[[], Page]


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """Collects what goes wrong in a page, and fails the test then."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("admin")


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    settings = {
        "FLASK_SECRET_KEY": "only for these tests, and long enough",
        "FLASK_USER_STORE_URL": f"sqlite:///{folder}/store.sqlite",
        "TEST_FOLDER": str(folder),
    }
    with (
        closing(Port()) as port,
        running(gunicorn("admin_app:server", port.number, APPS), port.number, folder, settings) as server,
    ):
        yield server.url


def operator(new_user: NewUser, site: str, faults: list[str]) -> Page:
    """The page of an operator.

    :param faults: gets what it asks of other sites, and what the browser finds wrong, such as offences of its policy
    """
    page = new_user()
    page.on("request", lambda asked: None if asked.url.startswith((site, "data:")) else faults.append(asked.url))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(f"{site}/become-operator")
    page.goto(f"{site}/user-store/")
    expect(page.locator("#tiles")).to_contain_text("Sessions")
    expect(page.locator("#owners")).not_to_be_empty()
    return page


def test_an_operator_sees_what_there_is_finds_a_session_and_ends_it(
    new_user: NewUser, site: str, faults: list[str]
) -> None:
    visitor = new_user()
    visitor.request.post(f"{site}/fill/{SESSIONS}")
    page = operator(new_user, site, faults)
    sessions = page.locator(".tile", has_text="Sessions").locator("strong")
    expect(sessions).to_have_text(re.compile(r"\d+"))
    before = int(sessions.inner_text())
    assert before >= SESSIONS
    expect(page.locator("#sizes-plot .barlayer .point")).to_have_count(7)
    expect(page.locator("#sessions-plot .legendtext").first).to_have_text("Sessions")

    expect(page.locator("#range")).to_have_text(f"1 to 25 of {before}")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#range")).to_have_text(f"26 to {before} of {before}")
    name = page.locator("#owners a").last.inner_text()
    search = page.get_by_role("searchbox", name="Search names")
    search.fill(name[4:])
    expect(page.locator("#owners a")).to_have_text([name])
    expect(page.locator("#range")).to_have_text("1 to 1 of 1")

    page.locator("#owners a").click()
    detail = page.get_by_role("complementary", name=name)
    expect(detail.locator(".keys")).to_contain_text("cart")
    expect(detail.locator(".keys code").first).to_contain_text("nnn")
    expect(page.locator("#detail-name")).to_be_focused()
    detail.get_by_text("End session…").click()
    expect(detail.locator(".question")).to_contain_text("This cannot be undone.")
    detail.get_by_role("button", name="End now").click()
    expect(detail).to_contain_text("This session has ended")
    expect(sessions).to_have_text(str(before - 1))
    page.keyboard.press("Escape")
    expect(detail).to_have_count(0)
    expect(search).to_have_value(name[4:])
    expect(page.locator("#owners")).to_contain_text("No sessions have a name")


def test_purge_check_and_backup_show_what_they_did(
    new_user: NewUser, site: str, folder: Path, faults: list[str]
) -> None:
    page = operator(new_user, site, faults)
    for label, said in (("Purge", "expired"), ("Check", "No damage found."), ("Back up", "Backed up to user-store-")):
        page.get_by_role("button", name=label, exact=True).click()
        expect(page.locator(".task", has_text=label).locator(".run .good")).to_contain_text(said)
    assert len(list(folder.glob("user-store-*.sqlite"))) == 1
    page.reload()  # Another worker may answer.
    expect(page.locator("#view-backup")).to_contain_text("Backed up to user-store-")


def test_a_hostile_user_id_and_key_run_no_script(new_user: NewUser, site: str, faults: list[str]) -> None:
    page = operator(new_user, site, faults)
    page.request.post(f"{site}/user")
    page.get_by_role("radio", name="Users").check()
    expect(page.locator("#owners a")).to_have_count(1)
    page.locator("#owners a").click()
    expect(page.locator("#detail-name")).to_have_text('<img src=x onerror="window.stolen=1">')
    expect(page.locator(".keys .key")).to_contain_text("<img src=x")
    assert page.evaluate("window.stolen") is None


def test_who_is_logged_out_is_told_that_no_answers_come(new_user: NewUser, site: str) -> None:
    page = new_user()
    page.goto(f"{site}/become-operator")
    page.clock.install()
    page.goto(f"{site}/user-store/")
    expect(page.locator("#tiles")).to_contain_text("Sessions")
    expect(page.locator("#silent")).to_be_hidden()
    page.route("**/_dash-update-component*", lambda route: route.abort())
    page.clock.run_for(60_000)
    expect(page.locator("#silent")).to_be_visible()
