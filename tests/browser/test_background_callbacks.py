"""Dash's background callbacks find their visitor's store in every kind of worker, and none is given another's result.

All tests share one server, whose page three visitors use at once, and one Celery worker.

Promises: docs/security.md, "Background callbacks".
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from brokers import assert_opens_nothing, everything_on, unpacked
from dash_jobs import Job, key_of, no_questions, wait_for_end_of_process
from http_visitor import Visitor
from playwright.sync_api import Page, expect
from servers import FOR_FORKED_JOBS, Port, Server, gunicorn, job_worker, running
from servers_redis import RedisServer, short_folder

SUPPORT = Path(__file__).parents[1] / "support"
APPS = SUPPORT / "apps"
TIMEOUT = 60


@contextmanager
def celery_worker(folder: Path, environ: dict[str, str]) -> Iterator[None]:
    options = ("--concurrency", "3", "--without-mingle", "--without-gossip")
    command = [str(Path(sys.executable).with_name("celery")), "--app", "background_app:celery", "worker"]
    with job_worker([*command, *options], folder, environ):
        yield


class Site:
    """The server, with what it shares with its workers."""

    def __init__(self, server: Server, folder: Path, redis: RedisServer) -> None:
        self.url = server.url
        self.port = server.port
        self.redis = redis
        self._folder = folder
        self.go = folder / "go"
        self.reaps_jobs = False

    def start_jobs_by(self, method: str, **environ: str) -> None:
        Visitor(self.port).request("POST", f"/start-method/{method}?{urlencode(environ)}")
        self.reaps_jobs = method == "forkserver"

    def hold_jobs(self) -> None:
        self.go.unlink(missing_ok=True)

    def let_jobs_go(self) -> None:
        self.go.touch()

    def wait_for_end_of(self, job: Job, button: str) -> None:
        """Wait until the job has ended, and its result can be asked for."""
        if "celery" in button:
            self._wait_for_key(key_of(job))
        else:
            wait_for_end_of_process(job, self.reaps_jobs)

    def _wait_for_key(self, key: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        with self.redis.client() as redis:
            while not redis.exists(key):
                assert time.monotonic() < deadline, "There is no result."
                time.sleep(0.01)

    def everything_in_the_cache(self) -> bytes:
        return b"\n".join(file.read_bytes() for file in (self._folder / "cache").rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, port = tmp_path_factory.mktemp("background"), Port()
    with closing(port), short_folder() as redis_folder, RedisServer(redis_folder) as redis:
        environ = {
            "BACKGROUND_FOLDER": str(folder),
            "BACKGROUND_REDIS": str(redis.socket),
            "PYTHONPATH": os.pathsep.join([str(APPS), *sys.path]),
        }
        command = gunicorn(
            "background_app:server", port.number, APPS, *FOR_FORKED_JOBS, "--workers", "1", "--threads", "8"
        )
        with celery_worker(folder, environ), running(command, port.number, folder, environ) as server:
            yield Site(server, folder, redis)


class Tab:
    """What Dash's page sends when its button is pressed, and while it waits for the result."""

    def __init__(self, site: Site, cookie: str | None = None) -> None:
        self._site = site
        self.visitor = Visitor(site.port, cookie, others="theme=dark")

    @classmethod
    def of_new_visitor(cls, site: Site, name: str) -> Tab:
        tab = cls(site)
        tab.visitor.request("POST", f"/name/{name}")
        return tab

    def press(self, button: str) -> Job:
        """What stands for the job that was started."""
        job = self.ask(button, {})
        return {name: str(job[name]) for name in ("cacheKey", "job")}

    def result(self, button: str, job: Job) -> Any:
        """The result of the job, when it has ended."""
        self._site.wait_for_end_of(job, button)
        return self.result_at_once(button, job)

    def result_at_once(self, button: str, job: Job) -> Any:
        return self.ask(button, job)["response"][button]["children"]

    def report(self, button: str, job: Job) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.result(button, job))
        return found

    def ask(self, button: str, query: Job) -> Any:
        """What the page is answered."""
        body = {
            "output": f"{button}.children",
            "outputs": {"id": button, "property": "children"},
            "inputs": [{"id": f"run-{button}", "property": "n_clicks", "value": 1}],
            "changedPropIds": [f"run-{button}.n_clicks"],
        }
        status, answer = self.visitor.request("POST", f"/_dash-update-component?{urlencode(query)}", body)
        assert status == 200, answer
        return json.loads(answer)

    def values(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.visitor.request("GET", "/values")[1])
        return found


def press_at_once(site: Site, tabs: list[Tab], button: str) -> list[Job]:
    """Start a job in each tab. None ends before all have been started."""
    site.hold_jobs()
    with ThreadPoolExecutor(len(tabs)) as threads:
        jobs = list(threads.map(lambda tab: tab.press(button), tabs))
    site.let_jobs_go()
    return jobs


WAYS = {
    "disk-fork": ("disk", "fork", 3),
    "disk-fork-cached-async": ("disk-cached", "fork", 3),
    "disk-spawn": ("disk", "spawn", 2),
    "disk-forkserver": ("disk", "forkserver", 2),
    "celery": ("celery", "fork", 3),
    "celery-cached-async": ("celery-cached", "fork", 3),
}


@pytest.mark.parametrize("way", WAYS)
def test_visitors_who_press_at_once_each_get_their_own_result_from_their_own_store(site: Site, way: str) -> None:
    button, method, visitors = WAYS[way]
    site.start_jobs_by(method)
    names = ["ada", "bob", "eve"][:visitors]
    tabs = [Tab.of_new_visitor(site, name) for name in names]
    jobs = press_at_once(site, tabs, button)
    for name, tab, job in zip(names, tabs, jobs, strict=True):
        found = tab.report(button, job)
        assert (found["name"], found["on g"], found["in a request"], found["is_available"]) == (name, name, name, True)
        assert found["visitor"] == tab.visitor.request("POST", f"/name/{name}")[1]
        assert (found["session_id"], found["regenerate"], found["destroy"]) == (None, *2 * ["OutsideRequest"])
        assert (found["cookies"], found["header"]) == ({"theme": "dark"}, "theme=dark")
        assert tab.values()["report"] == name


@pytest.mark.parametrize("button", ["disk-cached", "celery-cached"])
def test_a_cached_result_is_found_again_by_its_visitor_alone(site: Site, button: str) -> None:
    site.start_jobs_by("fork")
    ada, bob = (Tab.of_new_visitor(site, name) for name in ("ada", "bob"))
    [job] = press_at_once(site, [ada], button)
    first = ada.report(button, job)
    site.hold_jobs()
    assert json.loads(ada.result_at_once(button, ada.press(button))) == first
    job = bob.press(button)
    assert "response" not in bob.ask(button, job)
    site.let_jobs_go()
    assert bob.report(button, job)["name"] == "bob"


@pytest.mark.parametrize("button", ["disk", "celery"])
def test_two_tabs_of_a_visitor_who_press_at_once_each_get_a_result(site: Site, button: str) -> None:
    site.start_jobs_by("fork")
    tab = Tab.of_new_visitor(site, "ada")
    tabs = [tab, Tab(site, tab.visitor.cookie)]
    jobs = press_at_once(site, tabs, button)
    results = [tab.report(button, job) for tab, job in zip(tabs, jobs, strict=True)]
    assert [result["name"] for result in results] == ["ada", "ada"]
    assert tab.values()["jobs"] == 2


def test_a_job_goes_on_in_the_store_of_its_visitor_who_has_logged_in_meanwhile(site: Site) -> None:
    site.start_jobs_by("fork")
    site.hold_jobs()
    tab = Tab.of_new_visitor(site, "guest")
    job = tab.press("disk")
    before = tab.visitor.cookie
    tab.visitor.request("POST", "/log-in/ada")
    assert tab.visitor.cookie != before
    site.let_jobs_go()
    assert tab.report("disk", job)["name"] == "ada"
    assert tab.values()["report"] == "ada"


def test_nothing_that_passes_the_broker_or_lies_in_the_cache_opens_a_session(site: Site) -> None:
    site.start_jobs_by("fork")
    with site.redis.client() as redis, redis.monitor() as monitor:
        tabs = [Tab.of_new_visitor(site, name) for name in ("ada", "bob")]
        for button in ("celery", "celery-cached", "disk", "disk-cached"):
            for tab, job in zip(tabs, press_at_once(site, tabs, button), strict=True):
                tab.report(button, job)
        with site.redis.client() as other:
            other.ping()
        passed = []
        while (command := monitor.next_command()["command"]) != "PING":
            passed.append(command.replace('\\"', '"').encode())
    held = [*passed, *(each for command in passed for each in unpacked(command)), everything_on(site.redis)]
    held.append(site.everything_in_the_cache())
    for tab in tabs:
        assert tab.visitor.cookie is not None
        assert tab.visitor.cookie[:20].encode() in b"\n".join(held)  # It is in the handle, so that was unpacked.
        assert_opens_nothing(b"\n".join(held), tab.visitor.cookie)


def test_a_job_in_a_process_that_cannot_open_the_store_says_what_to_do(site: Site) -> None:
    started = {}
    for name, setting, what_to_do in [
        ("BACKGROUND_WITHOUT_STORE", "1", "Call UserStoreMiddleware(app) in a module that this process imports too"),
        ("BACKGROUND_SECRET", "another one, of about the same length", "Give both the same"),
        ("BACKGROUND_STORE", "memory://", "Let it name a file, Redis or PostgreSQL"),
    ]:
        site.start_jobs_by("spawn", **{name: setting})
        tab = Tab.of_new_visitor(site, "ada")
        started[what_to_do] = tab, tab.press("error")
    for what_to_do, (tab, job) in started.items():
        assert what_to_do in tab.result("error", job)


# In Chromium


@pytest.fixture
def open_page(site: Site, new_user: Callable[[], Page]) -> Callable[[], Page]:
    def open_it() -> Page:
        page = new_user()
        page.goto(site.url)
        return page

    return open_it


def show(page: Page, step: int) -> None:
    page.locator("#show").click()
    expect(page.locator("#stored")).to_have_text(f"step {step}")


def expect_progress(page: Page, tour: str, step: int) -> None:
    expect(page.locator(f"#progress-{tour}")).to_have_attribute("value", str(step))
    expect(page.locator(f"#note-{tour}")).to_have_text(f"step {step}")
    expect(page.locator(f"#state-{tour}")).to_have_text("running")


@pytest.mark.parametrize("tour", ["tour-disk", "tour-celery"])
def test_progress_running_set_props_and_cancel_work_as_before_and_two_visitors_share_none_of_it(
    site: Site, open_page: Callable[[], Page], tour: str
) -> None:
    site.start_jobs_by("fork")
    ada, bob = open_page(), open_page()
    for page in (ada, bob):
        page.locator(f"#run-{tour}").click()
    expect_progress(ada, tour, 1)
    show(ada, 1)
    expect_progress(ada, tour, 2)
    expect_progress(bob, tour, 1)
    with no_questions(ada) as job:
        show(ada, 2)
        site.wait_for_end_of(job, tour)
    expect(ada.locator(f"#{tour}")).to_have_text("after 2")
    expect(ada.locator(f"#state-{tour}")).to_have_text("ready")
    with no_questions(bob), bob.expect_response(re.compile("[?&]cancelJob=")):
        bob.locator(f"#cancel-{tour}").click()
    expect(bob.locator(f"#state-{tour}")).to_have_text("ready")
    show(bob, 1)
    expect(bob.locator(f"#{tour}")).to_be_empty()
