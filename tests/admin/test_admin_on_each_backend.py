"""The admin page shows and does the same with each storage, and with each codec."""

from __future__ import annotations

import threading
import time

import pytest
from admin_page import Site, text
from clocks import HandClock
from servers_redis import RedisServer, short_folder

from flask_dash_store.admin.samples import samples


@pytest.mark.parametrize("codec", ["pickle", "json"])
def test_the_page_counts_lists_shows_ends_checks_and_purges(url: str, codec: str, clock: HandClock) -> None:
    site = Site(url, clock, show_values=True, codec=codec)
    for user in ("ada", "bob"):
        site.visitor(cart=[user]).get(f"/log-in/{user}")
        clock.step(1)
    site.stores.for_user("ada")["note"] = "a note"
    tiles = site.page.text("tiles.children")
    assert "Sessions 2" in tiles
    assert "Users 1" in tiles
    assert "in 3 keys" in tiles
    assert "Reads and writes work." in site.page.text("status.children")
    newest, oldest = site.page.rows()
    assert site.page.rows(search=oldest[4:]) == [oldest]
    assert "['bob']" in text(site.page.detail(newest)["detail-content.children"])
    assert "'a note'" in text(site.page.detail("u.ada")["detail-content.children"])
    assert site.page.call("ages-plot.figure")["ages-plot.figure"]["data"][0]["x"][0] == 2
    site.page.call("ended.data", end=1, url="#u.ada")
    assert site.page.rows() == [newest]
    for kind in ("check", "purge"):
        assert site.page.run(kind) == ""
        for thread in threading.enumerate():
            if thread.name.startswith("flask_dash_store."):
                thread.join(60)
        assert "took" in site.page.text(f"view-{kind}.children")
    assert "No damage found." in site.page.text("view-check.children")
    assert len(samples(site.opened)) == 1
    site.stores.close()


def test_a_server_that_hangs_is_said_to_and_the_page_knows_soon_when_it_is_back(clock: HandClock) -> None:
    with short_folder() as folder, RedisServer(folder) as server:
        site = Site(server.url, clock, timeout=0.5)
        site.visitor(cart=1)
        server.pause()
        assert "could be counted" in site.page.text("tiles.children")
        assert "did not answer" in site.page.text("owners.children")
        assert "did not answer" in site.page.run("purge")
        assert site.page.call("tick.interval")["tick.interval"] == 5000
        server.resume()
        deadline = time.monotonic() + 10  # Ten seconds are less than 20 times as long as the failure took.
        while "Sessions 1" not in site.page.text("tiles.children"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "Reads and writes work." in site.page.text("status.children")
        site.stores.close()
