"""On a full disk a write is an error of the request that makes it; reading and logging out work, and all of it passes.

The disk is a small one that is filled, or a limit on the size of the server's files.

Promises: docs/reliability.md, "Each call in its time, and each error where it belongs". SQLite needs space to delete,
too: without a reserve, logging out would fail on a full disk.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from faults import DISKS, Disk, workers_of
from http_visitor import Visitor, ask_both_workers
from servers import Port, Server, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"
LARGE = 2_000_000


class Site:
    def __init__(self, server: Server, disk: Disk) -> None:
        self.server = server
        self.disk = disk

    def visitor(self) -> Visitor:
        visitor = Visitor(self.server.port)
        visitor.do("GET", "/values")
        return visitor

    def stored_bytes(self) -> bytes:
        """All files of the store."""
        return b"".join(path.read_bytes() for path in self.disk.seen_by(self.server).rglob("*") if path.is_file())


@pytest.fixture(scope="module", params=DISKS, ids=lambda disk: disk.__name__)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("disk")
    disk = request.param(folder)
    environ = {
        "FLASK_SECRET_KEY": "only for these tests",
        "FLASK_USER_STORE_URL": f"sqlite:///{disk.folder}/store.sqlite",
        "FLASK_USER_STORE_TIMEOUT": "2",
    }
    with closing(Port()) as port:
        command = disk.command(gunicorn("fault_app:server", port.number, APPS))
        with running(command, port.number, folder, environ) as server:
            ask_both_workers(Visitor(port.number), "GET", "/")
            yield Site(server, disk)


def write_until_refused(visitor: Visitor, path: str) -> tuple[dict[str, str], str]:
    """What was acknowledged before a write was refused, and the error."""
    acknowledged: dict[str, str] = {}
    for n in range(3000):
        value = f"{n:05}" * 2000
        answer = visitor.ask("PUT", f"{path}-{n}", value)
        if answer.status != 200:
            return acknowledged, answer.body["error"]
        acknowledged[f"{path.rpartition('/')[2]}-{n}"] = value
    raise AssertionError("the disk takes everything")


def test_a_full_disk_refuses_writes_alone_and_passes(site: Site) -> None:
    ann, bob = site.visitor(), site.visitor()
    ann.do("PUT", "/values/large", "a" * LARGE)
    bob.do("PUT", "/values/small", "b")
    with site.disk.full(site.server):
        refused = ask_both_workers(ann, "PUT", "/values/large", "c" * LARGE)
        assert {answer.body["error"] for answer in refused} == {"StorageFull"}
        assert not list((site.disk.seen_by(site.server) / "store.sqlite.buffers").glob("*.tmp"))
        acknowledged, error = write_until_refused(ann, "/values/key")
        assert error == "StorageFull"
        expected = {"large": "a" * LARGE} | acknowledged
        assert all(answer.body["values"] == expected for answer in ask_both_workers(ann, "GET", "/values"))
        assert all(answer.body["values"] == {"small": "b"} for answer in ask_both_workers(bob, "GET", "/values"))
    assert {answer.status for answer in ask_both_workers(ann, "PUT", "/values/large", "d" * LARGE)} == {200}
    assert {answer.status for answer in ask_both_workers(bob, "PUT", "/values/more", 1)} == {200}
    assert ann.do("GET", "/values")["values"] == expected | {"large": "d" * LARGE}


def test_logging_out_works_on_a_full_disk(site: Site) -> None:
    ann, bob = site.visitor(), site.visitor()
    secrets = {"small": "topsecret" * 100, "large": "topsecret" * 50_000}
    for key, value in secrets.items():
        ann.do("PUT", f"/values/{key}", value)
    thief = Visitor(ann.port, ann.cookie)
    with site.disk.full(site.server):
        write_until_refused(bob, "/values/key")
        assert ann.ask("POST", "/destroy").status == 200
        assert ann.cookie != thief.cookie
        assert all(answer.body["values"] == {} for answer in ask_both_workers(thief, "GET", "/values"))
        assert {answer.status for answer in ask_both_workers(thief, "PUT", "/values/small", 1)} == {409}
    assert all(answer.body["values"] == {} for answer in ask_both_workers(thief, "GET", "/values"))
    ann.do("POST", "/purge")
    assert b"topsecret" not in site.stored_bytes()


def test_deleting_and_purging_work_on_a_full_disk(site: Site) -> None:
    visitor = site.visitor()
    visitor.do("PUT", "/values/key", "x" * 1000)
    with site.disk.full(site.server):
        write_until_refused(site.visitor(), "/values/key")
        assert visitor.ask("DELETE", "/values/key").status == 200
        assert visitor.ask("POST", "/purge").status == 200
        assert visitor.do("GET", "/values")["values"] == {}


def test_workers_that_start_on_a_full_disk_serve_what_is_stored_and_log_out(site: Site) -> None:
    visitor = site.visitor()
    visitor.do("PUT", "/values/key", "x" * 1000)
    with site.disk.full(site.server):
        write_until_refused(site.visitor(), "/values/key")
        former = workers_of(site.server)
        for pid in former:
            os.kill(pid, signal.SIGKILL)
        site.server.wait_until_it_answers()
        answers = ask_both_workers(visitor, "GET", "/values")
        assert {answer.body["worker"] for answer in answers}.isdisjoint(former)
        assert all(answer.body["values"] == {"key": "x" * 1000} for answer in answers)
        assert visitor.ask("POST", "/destroy").status == 200


def test_many_log_out_on_a_full_disk(site: Site) -> None:
    visitors = [site.visitor() for _ in range(30)]
    for visitor in visitors:
        visitor.do("PUT", "/values/key", 1)
    with site.disk.full(site.server):
        write_until_refused(site.visitor(), "/values/key")
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda visitor: visitor.ask("POST", "/destroy"), visitors))
    assert [answer.status for answer in answers] == [200] * len(visitors)
