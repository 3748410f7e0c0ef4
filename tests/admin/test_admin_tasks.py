"""Purge, check and backup run one at a time; each worker knows how far they are, and when one is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from admin_page import AdminPage, MakeSite, Site
from clocks import HandClock

from flask_dash_store import session_ended
from flask_dash_store.admin.task_runner import LEASE

TIMEOUT = 30
EXPIRED = 500
BLOCKED_AFTER = 300


class Gate:
    """Holds up a purge, which calls the receivers of `session_ended`, after some sessions until it is opened."""

    def __init__(self, app: Any) -> None:
        self.reached, self._opened, self._calls = threading.Event(), threading.Event(), 0
        session_ended.connect(self._wait, sender=app)

    def _wait(self, *_: Any, **__: Any) -> None:
        self._calls += 1
        if self._calls == BLOCKED_AFTER:
            self.reached.set()
            assert self._opened.wait(TIMEOUT)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture(autouse=True)
def _wait_for_tasks() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("flask_dash_store."):
            thread.join(TIMEOUT)


def expired_site(make_site: MakeSite, clock: HandClock, **options: Any) -> Site:
    """One of whose visitors all sessions have expired."""
    site = make_site(**options)
    site.value = 1
    for _ in range(EXPIRED):
        site.app.test_client().post("/put/cart")
    clock.step(7200)
    return site


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def view(page: AdminPage, kind: str) -> str:
    return page.text(f"view-{kind}.children")


def done(page: AdminPage, kind: str) -> str:
    """What is said of a task when it has come to its end."""
    until(lambda: "took" in view(page, kind))
    return view(page, kind)


def test_a_task_is_seen_with_its_progress_by_each_worker_and_is_the_only_one(
    make_site: MakeSite, clock: HandClock
) -> None:
    one = expired_site(make_site, clock)
    other = make_site()
    gate = Gate(one.app)
    assert one.page.run("purge") == ""
    assert gate.reached.wait(TIMEOUT)
    until(lambda: " %" in view(other.page, "purge"))
    percent = int(view(other.page, "purge").split(" %")[0])
    assert 0 < percent < 100
    for page in (one.page, other.page):
        assert "Another task is running" in page.run("check")
        answer = page.call("view-purge.children")
        assert [answer[f"run-{kind}.disabled"] for kind in ("purge", "check")] == [True, True]
        assert answer["fast-tick.disabled"] is False
    gate.open()
    assert f"Removed {EXPIRED} expired sessions and users." in done(other.page, "purge")
    answer = other.page.call("view-purge.children")
    assert (answer["run-check.disabled"], answer["fast-tick.disabled"]) == (False, True)
    assert other.page.run("check") == ""
    assert "No damage found." in done(one.page, "check")


def test_a_task_whose_lease_is_renewed_is_not_lost_however_long_it_takes(make_site: MakeSite, clock: HandClock) -> None:
    one = expired_site(make_site, clock)
    other = make_site()
    gate = Gate(one.app)
    one.page.run("purge")
    assert gate.reached.wait(TIMEOUT)
    for _ in range(3):
        clock.step(LEASE - 1)
        renewed = clock.now
        until(lambda: _renewed(one) >= renewed)  # noqa: B023
        assert "Lost" not in view(other.page, "purge")
    gate.open()
    done(other.page, "purge")


def _renewed(site: Site) -> float:
    from flask_dash_store.admin.records import read_record
    from flask_dash_store.owner import TASKS_OWNER

    renewed: float = read_record(site.opened, TASKS_OWNER)["purge"]["renewed"]
    return renewed


WORKER = """
import sys, threading
from admin_page import Site
from clocks import HandClock
from flask_dash_store import session_ended

clock = HandClock()
site = Site(sys.argv[1], clock)
site.visitor(cart=1)
clock.step(7200)

@session_ended.connect
def hang(*_, **__):
    print("working", flush=True)
    threading.Event().wait()

site.page.run("purge")
threading.Event().wait()
"""


def test_a_task_of_a_killed_worker_is_shown_as_lost_and_the_next_one_can_begin(
    tmp_path: Path, clock: HandClock, make_site: MakeSite
) -> None:
    command = [sys.executable, "-c", WORKER, f"sqlite:///{tmp_path}/store.sqlite"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "working\n"
        worker.kill()
    site = make_site()
    clock.step(7200)
    assert "Lost" not in view(site.page, "purge")
    assert "Another task is running" in site.page.run("check")
    clock.step(LEASE)
    assert "Lost." in view(site.page, "purge")
    assert site.page.run("check") == ""
    assert "No damage found." in done(site.page, "check")
    assert site.page.run("purge") == ""
    assert "Nothing had expired." in done(site.page, "purge")


def test_a_backup_goes_into_the_folder_and_holds_what_is_stored(
    make_site: MakeSite, tmp_path: Path, clock: HandClock
) -> None:
    site = make_site(backups=tmp_path)
    site.visitor(cart=1)
    site.page.run("backup")
    assert "Backed up to user-store-2023-11-14-221320.sqlite." in done(site.page, "backup")
    held = site.opened.storage.inspect_backup(tmp_path / "user-store-2023-11-14-221320.sqlite", clock.now)
    assert held.sessions == 1


def test_without_a_folder_and_where_there_are_none_the_page_offers_no_backup(
    make_site: MakeSite, tmp_path: Path
) -> None:
    assert make_site().page.call("view-purge.children")["task-backup.hidden"] is True
    assert make_site(backups=tmp_path).page.call("view-purge.children")["task-backup.hidden"] is False
    plain = Site("memory://", HandClock(), backups=tmp_path)
    assert plain.page.call("view-purge.children")["task-backup.hidden"] is True
    asked = plain.page.call("task-note.children", run_backup=1, started=0)
    assert asked == {}
    plain.stores.close()


def test_a_task_that_fails_says_why(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(backups=tmp_path)
    (tmp_path / "user-store-2023-11-14-221320.sqlite").write_bytes(b"an older one")
    site.page.run("backup")
    assert "It failed:" in done(site.page, "backup")
    assert (tmp_path / "user-store-2023-11-14-221320.sqlite").read_bytes() == b"an older one"


def test_a_check_names_the_first_values_that_are_damaged(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site()
    for number in range(30):
        site.visitor(**{f"key{number}": "x" * 50})
    connection = apsw.Connection(f"{tmp_path}/store.sqlite")
    connection.execute("UPDATE \"values\" SET value = CAST(replace(value, 'xxx', 'xyx') AS BLOB) WHERE key LIKE 's.%'")
    connection.close()
    site.page.run("check")
    found = done(site.page, "check")
    assert "Found 30 problems." in found
    assert "and 10 more" in found
    assert "xyx" not in found
