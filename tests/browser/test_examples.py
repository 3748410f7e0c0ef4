"""Each example does in a real browser what it says, by itself and in the demo: a copy of the folder, and no setting."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from servers import FOR_FORKED_JOBS, Port, Server, gunicorn, running

EXAMPLES = Path(__file__).parents[2] / "examples"
APPS = sorted(path.stem for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())

PASSWORD = "of these tests"

NewUser = Callable[[], Page]


@contextmanager
def served(command: list[str], port: Port, folder: Path, **environ: str) -> Iterator[Server]:
    with running(command, port.number, folder, {"PYTHONWARNINGS": "default"} | environ) as server:
        yield server
    assert "Warning:" not in server.log, server.log


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for an example keeps its database and its key beside itself."""
    made_by_use = shutil.ignore_patterns("instance", "__pycache__")
    return Path(shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("copy") / "examples", ignore=made_by_use))


@pytest.fixture(scope="module")
def demo(examples: Path) -> Iterator[str]:
    """The address of all examples, on two workers."""
    with closing(Port()) as port:
        command = gunicorn("demo:server", port.number, examples, *FOR_FORKED_JOBS)
        with served(command, port, examples.parent, ADMIN_PASSWORD=PASSWORD) as server:
            yield server.url


def open_example(page: Page, demo: str, name: str) -> None:
    """Open a Dash page, and wait until its first callbacks have been called."""
    page.goto(f"{demo}/{name}".rstrip("/") + "/")
    expect(page.locator("[role=status]").first).not_to_be_empty()
    expect(page).not_to_have_title("Updating...")


@pytest.mark.parametrize("name", sorted({*APPS} - {"dash_app", "fastapi_app", "upload_csv"}))  # These are tested below.
def test_each_example_is_served_by_python_without_a_warning(examples: Path, name: str) -> None:
    with closing(Port()) as port:
        command = [sys.executable, str(examples / f"{name}.py"), "--port", str(port.number)]
        with served(command, port, examples.parent):
            pass


def test_the_demo_leads_to_all_examples_and_each_has_cookies_of_its_own(demo: str, new_user: NewUser) -> None:
    page = new_user()
    page.goto(demo)
    titles = page.locator("a.card h2").all_text_contents()
    names = [name.rpartition("/")[2] for name in page.locator("a.card code").all_text_contents()]
    assert sorted(names) == [f"{name}.py" for name in APPS if name not in ("demo", "fastapi_app")]
    for title in titles:
        page.get_by_role("heading", name=title).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        page.go_back()
    paths = [cookie["path"] for cookie in page.context.cookies() if cookie["name"] == "user_store"]
    assert len(set(paths)) == len(paths) > 1
    assert "/" not in paths


# upload_csv.py


def send(page: Page, name: str, content: bytes) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a CSV file").click()
    chooser.value.set_files({"name": name, "mimeType": "text/csv", "buffer": content})


def slow_uploads_down(page: Page) -> None:
    """As from afar, so that there is progress to be seen."""
    page.context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 30e6},
    )


def test_upload_csv_shows_the_progress_of_20_mb_and_filters_them_in_all_tabs(demo: str, new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    ada.goto(f"{demo}/upload_csv/")
    expect(ada.locator("#summary")).to_have_text("No file yet.")
    slow_uploads_down(ada)
    ada.get_by_role("button", name="Generate 20 MB").click()
    expect(ada.locator("#upload-status")).to_have_text(re.compile(r"Uploading sales.csv: [1-9]\d* %"))
    expect(ada.locator("#upload-progress")).to_have_attribute("value", re.compile(r"0\.\d+"))
    expect(ada.locator("#upload-status")).to_have_text("sales.csv is stored.")
    expect(ada.locator("#upload-progress")).to_be_hidden()
    expect(ada.locator("#summary")).to_have_text("sales.csv: 400,000 rows, 6 columns")

    other_tab = ada.context.new_page()
    other_tab.goto(f"{demo}/upload_csv/chart")
    expect(other_tab.locator("#chart .barlayer .point")).to_have_count(24)
    ada.get_by_role("link", name="Table").click()
    expect(ada.locator("#kept")).to_have_text("400,000 of 400,000 rows")
    ada.get_by_role("button", name="Tea kettle").click()
    expect(ada.locator("#rows tbody td:nth-child(3)")).to_have_text(["Tea kettle"] * 12)
    other_tab.bring_to_front()  # a page in the background asks for no changes
    expect(other_tab.locator("#kept")).to_have_text(re.compile(r"^\d\d,\d{3} of 400,000 rows"))
    expect(other_tab.get_by_role("button", name="Tea kettle")).to_have_attribute("aria-pressed", "true")

    bob.goto(f"{demo}/upload_csv/table")
    expect(bob.locator("#kept")).to_have_text("0 of 0 rows")


def test_upload_csv_clears_the_data_in_all_tabs(demo: str, new_user: NewUser) -> None:
    page = new_user()
    page.goto(f"{demo}/upload_csv/")
    send(page, "people.csv", b"name,city\nAda,London\nBob,Rome\n")
    expect(page.locator("#summary")).to_have_text("people.csv: 2 rows, 2 columns")
    other_tab = page.context.new_page()
    other_tab.goto(f"{demo}/upload_csv/table")
    expect(other_tab.locator("#kept")).to_have_text("2 of 2 rows")
    page.bring_to_front()
    page.get_by_role("button", name="Clear my data").click()
    expect(page.locator("#summary")).to_have_text("No file yet.")
    other_tab.bring_to_front()
    expect(other_tab.locator("#kept")).to_have_text("0 of 0 rows")


def test_upload_csv_tells_the_visitor_what_is_wrong_and_keeps_the_table_that_it_has(
    examples: Path, browser: Browser
) -> None:
    limits = {"FLASK_USER_STORE_MAX_VALUE_BYTES": "100000", "FLASK_MAX_CONTENT_LENGTH": "1000000"}
    command = [sys.executable, str(examples / "upload_csv.py"), "--port"]
    with closing(Port()) as port, browser.new_context() as context:
        page = context.new_page()
        with served([*command, str(port.number)], port, examples.parent, **limits) as server:
            page.goto(server.url)
            send(page, "people.csv", b"name,city\nAda,London\nBob,Rome\n")
            expect(page.locator("#upload-status")).to_have_text("people.csv is stored.")
            for name, content, message in (
                ("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "photo.png is not a CSV file."),
                ("empty.csv", b"", "empty.csv is not a CSV file."),
                ("large.csv", b"n\n" + b"1\n" * 100_000, "large.csv is too large: 0.0954 MiB is the limit."),
                ("larger.csv", b"n\n" + b"1\n" * 600_000, "The file is too large: 0.954 MiB is the limit."),
            ):
                with page.expect_response("**/upload") as response:
                    send(page, name, content)
                assert response.value.headers["content-type"].startswith("text/plain")  # The name is not to be HTML.
                expect(page.locator("#upload-status.error")).to_have_text(message)
                expect(page.locator("#upload-progress")).to_be_hidden()
            page.reload()
            expect(page.locator("#summary")).to_have_text("people.csv: 2 rows, 2 columns")
            page.goto("about:blank")


# background_report.py


def test_background_report_gives_two_visitors_their_own_and_can_be_cancelled(demo: str, new_user: NewUser) -> None:
    ada, _ = users = new_user(), new_user()
    for page in users:
        page.goto(f"{demo}/background_report/")
        expect(page.locator("#reports")).to_have_text("None yet.")
    for page in users:  # Both ask for the same, for which Dash itself has one result.
        page.get_by_role("button", name="Run the report").click()
    for page in users:
        expect(page.locator("#progress")).to_have_attribute("value", re.compile(r"\d+"))
    for page in users:
        expect(page.locator("#outcome")).to_have_text("“Sales” is ready.")
        expect(page.locator("#reports strong")).to_have_text(["Sales"])

    ada.get_by_role("button", name="Run the report").click()
    expect(ada.locator("#progress")).to_have_attribute("value", re.compile(r"\d+"))
    ada.get_by_role("button", name="Cancel").click()
    expect(ada.locator("#outcome")).to_have_text("Cancelled.")
    ada.reload()
    expect(ada.locator("#reports strong")).to_have_text(["Sales"])


# parallel_callbacks.py


def test_parallel_callbacks_keeps_all_keys_in_the_store_and_loses_some_of_the_session(
    demo: str, new_user: NewUser
) -> None:
    page = new_user()
    open_example(page, demo, "parallel_callbacks")
    for _ in range(2):
        page.get_by_role("button", name="Fire").click()
        expect(page.locator(".dot.busy")).to_have_count(8)
        expect(page.locator("#store-tally")).to_have_text("8 of 8 kept")
        expect(page.locator("#store-keys .kept")).to_have_count(8)
        expect(page.locator("#session-tally")).to_have_text(re.compile("[1-7] of 8 kept"))


# dash_app.py


def save(page: Page, label: str, value: str) -> None:
    page.get_by_label(label).fill(value)
    page.get_by_label(label).press("Enter")


def test_dash_app_shows_each_visitors_value_in_all_of_their_tabs_and_each_tabs_own(
    demo: str, new_user: NewUser
) -> None:
    ada, bob = new_user(), new_user()
    second_tab = ada.context.new_page()
    for page in (ada, bob, second_tab):
        open_example(page, demo, "dash_app")
    ada.bring_to_front()
    save(ada, "Your value", "<b>seven</b>")
    save(ada, "The value of this tab", "eight")
    for _ in range(2):
        expect(ada.locator("#user-shown")).to_have_text("<b>seven</b>")
        expect(ada.locator("#tab-shown")).to_have_text("eight")
        ada.reload()
    second_tab.bring_to_front()
    expect(second_tab.locator("#user-shown")).to_have_text("<b>seven</b>")
    expect(second_tab.locator("#tab-shown")).to_have_text("Nothing yet")
    bob.reload()
    expect(bob.locator("#user-shown")).to_have_text("Nothing yet")


def test_dash_app_keeps_the_values_over_a_restart(examples: Path, new_user: NewUser) -> None:
    page = new_user()
    with closing(Port()) as port:
        command = [sys.executable, str(examples / "dash_app.py"), "--port", str(port.number)]
        with served(command, port, examples.parent) as server:
            open_example(page, server.url, "")
            save(page, "Your value", "forty-two")
            expect(page.locator("#user-shown")).to_have_text("forty-two")
            page.goto("about:blank")  # so that it asks nothing of a server that is gone
        with served(command, port, examples.parent) as server:
            page.goto(server.url)
            expect(page.locator("#user-shown")).to_have_text("forty-two")
            page.goto("about:blank")


# fastapi_app.py


def test_fastapi_app_counts_all_of_its_parallel_async_callbacks(examples: Path, new_user: NewUser) -> None:
    page = new_user()
    with closing(Port()) as port:
        command = [sys.executable, str(examples / "fastapi_app.py"), "--port", str(port.number)]
        with served(command, port, examples.parent) as server:
            open_example(page, server.url, "")
            for count in ("4", "8"):
                page.get_by_role("button", name="Count").click()
                expect(page.locator("#counted")).to_have_text(count)
            page.get_by_role("link", name="the count as JSON").click()
            expect(page.locator("body")).to_have_text('{"count":8}')


# admin.py


def test_admin_shows_the_operator_what_visitors_have_stored_and_no_one_else(demo: str, new_user: NewUser) -> None:
    visitor, operator = new_user(), new_user()
    for page in (visitor, operator):
        page.goto(f"{demo}/admin/")
    visitor.get_by_label("A note").fill("a note of mine")
    visitor.get_by_role("button", name="Store").click()
    expect(visitor.locator("#count")).to_have_text("1")
    assert visitor.request.get(f"{demo}/admin/user-store/").status == 403
    operator.get_by_label("Password").fill("a guess")
    operator.get_by_role("button", name="Log in").click()
    expect(operator.get_by_role("alert")).to_have_text("That is not the password.")
    operator.get_by_label("Password").fill(PASSWORD)
    operator.get_by_role("button", name="Log in").click()
    operator.get_by_role("link", name="Open the admin page").click()
    two_keys = operator.locator('[data-label="Keys"]', has_text=re.compile("^2$"))
    operator.locator("#owners tr").filter(has=two_keys).first.get_by_role("link").click()
    expect(operator.locator(".keys")).to_contain_text("a note of mine")


# flask_app.py


def expect_on_page(page: Page, count: int, notes: list[str]) -> None:
    expect(page.locator("#count")).to_have_text(str(count))
    expect(page.locator("#notes li")).to_have_text(notes or ["No notes yet."])


def add_note(page: Page, note: str) -> None:
    page.get_by_label("A new note").fill(note)
    page.get_by_role("button", name="Add").click()


def cookie_of(page: Page) -> str | None:
    return next((cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "session"), None)


def test_flask_app_counts_and_keeps_notes_for_each_user(demo: str, new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    url = f"{demo}/flask_app/"
    for page in (ada, bob):
        page.goto(url)
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


def test_flask_app_keeps_the_values_at_login_and_drops_them_at_logout(demo: str, new_user: NewUser) -> None:
    ada, thief = new_user(), new_user()
    url = f"{demo}/flask_app/"
    ada.goto(url)
    add_note(ada, "Buy milk")
    before = cookie_of(ada)
    ada.get_by_label("Your name").fill("Ada")
    ada.get_by_role("button", name="Log in").click()
    expect(ada.locator("#name")).to_have_text("Ada")
    expect_on_page(ada, 0, ["Buy milk"])
    logged_in = cookie_of(ada)

    ada.get_by_role("button", name="Log out").click()
    expect(ada.get_by_label("Your name")).to_be_visible()
    expect(ada.locator(".toast")).to_have_text("You are logged out.")
    expect_on_page(ada, 0, [])

    assert len({before, logged_in, cookie_of(ada)}) == 3
    for stolen in filter(None, (before, logged_in)):
        thief.context.add_cookies([{"name": "user_store", "value": stolen, "url": url}])
        thief.goto(url)
        expect(thief.get_by_label("Your name")).to_be_visible()
        expect_on_page(thief, 0, [])


def test_flask_app_takes_a_second_tab_that_logs_in_too(demo: str, new_user: NewUser) -> None:
    ada = new_user()
    url = f"{demo}/flask_app/"
    ada.goto(url)
    other_tab = ada.context.new_page()
    other_tab.goto(url)
    for page, name in ((ada, "Ada"), (other_tab, "Countess")):
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#name")).to_have_text(name)


def test_flask_app_refuses_what_another_site_posts(demo: str, browser: Browser) -> None:
    context = browser.new_context()
    url = f"{demo}/flask_app/"
    ada = context.new_page()
    ada.goto(url)
    add_note(ada, "Buy milk")
    evil = context.new_page()
    evil.goto(url.replace("127.0.0.1", "localhost"))  # the same server, but for the browser another site
    evil.evaluate("url => document.forms[0].action = url", f"{url}login")
    evil.get_by_label("Your name").fill("Eve")
    with evil.expect_navigation() as navigation:
        evil.get_by_role("button", name="Log in").click()
    assert navigation.value is not None
    assert navigation.value.status == 403
    ada.reload()
    expect(ada.get_by_label("Your name")).to_be_visible()
    expect_on_page(ada, 0, ["Buy milk"])
    context.close()


# dash_database_app.py


def enter(page: Page, value: str) -> None:
    page.bring_to_front()  # a tab in the background draws seldom, and Playwright waits for it
    page.get_by_label("Your value").fill(value)
    page.get_by_role("button", name="OK").click()
    expect(page.locator("#saved")).to_contain_text("saved")


def retrieve_and_expect(page: Page, text: str) -> None:
    page.bring_to_front()
    page.get_by_text("Retrieve the value", exact=True).click()
    page.get_by_role("button", name="Show me the value").click()
    expect(page.locator("#shown")).to_have_text(text)


def test_dash_database_app_keeps_a_value_for_each_browser_tab(demo: str, new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    url = f"{demo}/dash_database_app/"
    ada.goto(url)
    other_tab = ada.context.new_page()
    for page in (bob, other_tab):
        page.goto(url)
    enter(ada, "monkey")
    enter(bob, "green")
    retrieve_and_expect(other_tab, "You have not saved a value yet.")
    retrieve_and_expect(ada, "Your value is monkey")
    retrieve_and_expect(bob, "Your value is green")
    for page, text in ((ada, "Your value is monkey"), (bob, "Your value is green")):
        page.reload()
        retrieve_and_expect(page, text)
