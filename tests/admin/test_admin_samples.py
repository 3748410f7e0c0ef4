"""Samples of how much there was are taken by themselves, seldom, once for all workers, and stay few."""

from __future__ import annotations

import pickle
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from admin_page import MakeSite, Site
from clocks import HandClock

from flask_dash_store.admin.samples import INTERVAL, Sample, samples, thinned
from flask_dash_store.owner import HEALTH_OWNER, SAMPLES_OWNER, TASKS_OWNER

DAY = 24 * 3600.0


@pytest.fixture(autouse=True)
def _wait_for_threads() -> Any:
    yield
    wait_for_samples()


def wait_for_samples() -> None:
    """Samples are taken in threads; let them be done."""
    for thread in threading.enumerate():
        if thread.name == "flask_dash_store.samples":
            thread.join(60)


def request(site: Site) -> None:
    site.app.test_client().get("/keys")
    wait_for_samples()


def taken(site: Site) -> list[Sample]:
    return samples(site.opened)


def test_a_look_at_the_page_takes_a_sample_at_most_one_each_interval(site: Site, clock: HandClock) -> None:
    site.visitor(cart=1, note=2)
    site.stores.for_user("ada")["note"] = 1
    wait_for_samples()
    began = clock.now
    assert len(taken(site)) == 1
    clock.step(INTERVAL)
    for _ in range(3):
        site.page.text("tiles.children")
        clock.step(INTERVAL / 4)
    assert [each.at for each in taken(site)] == [began, began + INTERVAL]
    last = taken(site)[-1]
    assert (last.sessions, last.users, last.keys) == (1, 1, 3)
    assert last.nbytes > 0


def test_requests_of_visitors_take_samples_though_no_one_looks(site: Site, clock: HandClock) -> None:
    for _ in range(3):
        request(site)
        request(site)
        clock.step(INTERVAL + 1)
    assert len(taken(site)) == 3


def test_a_request_is_answered_though_no_thread_can_take_its_sample(site: Site, clock: HandClock) -> None:
    request(site)
    clock.step(INTERVAL)
    size = threading.stack_size(2**46)  # more than the system has, so no thread can be started
    try:
        assert site.app.test_client().get("/keys").status_code == 200
    finally:
        threading.stack_size(size)
    assert len(taken(site)) == 1
    clock.step(INTERVAL)
    request(site)
    assert len(taken(site)) == 2


def test_workers_take_no_more_samples_together_than_one(make_site: MakeSite, clock: HandClock) -> None:
    workers = [make_site() for _ in range(3)]
    for _ in range(4):
        for worker in workers:
            request(worker)
            worker.page.text("tiles.children")
        clock.step(INTERVAL)
    assert len(taken(workers[0])) == 4


def test_a_clock_that_is_stepped_back_stops_no_samples(site: Site, clock: HandClock) -> None:
    request(site)
    clock.step(-DAY)
    request(site)
    assert [each.at for each in taken(site)] == [clock.now]


def test_a_month_of_samples_takes_a_few_dozen_kilobytes_and_keeps_the_whole_time(clock: HandClock) -> None:
    record: list[Any] = []
    hours, minutes = [3600.0] * 39 * 24, [INTERVAL] * int(DAY / INTERVAL)
    for number, step in enumerate(hours + minutes):
        clock.step(step)
        record = thinned([*record, [clock.now, 100_000 + number, 20_000, 10**9 + number, 500_000]], clock.now)
    ages = [clock.now - each[0] for each in record]
    assert ages == sorted(ages, reverse=True)
    assert max(ages) > 30 * DAY
    assert len([age for age in ages if age < DAY]) > 280
    assert max(before - after for before, after in pairwise(ages)) <= 8 * 3600
    assert len(pickle.dumps(record)) < 40_000


def test_samples_are_counted_and_listed_nowhere_and_purge_leaves_them_alone(site: Site, clock: HandClock) -> None:
    request(site)
    site.stores.purge()
    runner = site.app.test_cli_runner()
    assert runner.invoke(args=["user-store", "list"]).output == "There are no sessions.\n"
    assert runner.invoke(args=["user-store", "list", "--users"]).output == "There are no users with values.\n"
    stats = runner.invoke(args=["user-store", "stats"]).output
    assert not [owner for owner in (HEALTH_OWNER, SAMPLES_OWNER, TASKS_OWNER) if owner.name in stats]
    clock.step(30 * DAY)
    assert len(taken(site)) == 1
    clock.step(60 * DAY)
    site.stores.purge()
    assert taken(site) == []


def test_samples_come_along_when_a_store_is_copied(site: Site, tmp_path: Path, clock: HandClock) -> None:
    request(site)
    source, target = (f"sqlite:///{tmp_path}/{name}.sqlite" for name in ("store", "copy"))
    site.app.test_cli_runner().invoke(args=["user-store", "copy", source, target])
    copy = Site(target, clock)
    assert taken(copy) == taken(site)
    copy.stores.close()


def test_samples_become_fewer_where_the_app_lets_its_visitors_have_little(
    make_site: MakeSite, clock: HandClock
) -> None:
    site = make_site(max_bytes=700, max_keys=1)
    for _ in range(60):
        clock.step(INTERVAL)
        request(site)
    found = taken(site)
    assert 5 < len(found) < 40
    assert found[-1].at == clock.now
    assert clock.now - found[0].at > 20 * INTERVAL


def test_the_plots_show_the_samples_and_what_there_is_now(site: Site, clock: HandClock) -> None:
    site.visitor(cart=1)
    wait_for_samples()
    clock.step(INTERVAL)
    site.visitor(cart=1)
    wait_for_samples()
    clock.step(60)
    site.visitor(cart=1)
    plots = site.page.call("sessions-plot.figure", span="day")
    sessions, users = plots["sessions-plot.figure"]["data"]
    assert (sessions["y"], users["y"]) == ([1, 2, 3], [0, 0, 0])
    assert sessions["x"][-1] == clock.now * 1000
    assert plots["bytes-plot.figure"]["data"][0]["y"][-1] > 0
    (ages,) = site.page.call("ages-plot.figure")["ages-plot.figure"]["data"]
    assert ages["x"] == [3, 0, 0, 0, 0, 0]
    clock.step(30 * DAY)
    assert len(site.page.call("sessions-plot.figure", span="month")["sessions-plot.figure"]["data"][0]["x"]) == 3


def test_what_is_no_span_is_a_day(site: Site) -> None:
    site.visitor(cart=1)
    wait_for_samples()
    day = site.page.call("sessions-plot.figure", span="day")
    for span in ("year", [], {"day": 1}, None):
        assert site.page.call("sessions-plot.figure", span=span) == day


def test_an_app_without_the_page_takes_none(make_site: MakeSite, clock: HandClock) -> None:
    site = make_site(admin=False)
    request(site)
    clock.step(INTERVAL)
    request(site)
    assert taken(site) == []
