"""An app on two hosts behind one server: a visitor's requests alternate between them, and nothing is lost.

The hosts are two gunicorns with folders of their own. Where the machine allows it each is in a network of its own, in
which there is nothing; the server is reached by a Unix socket, and so is each gunicorn.

Promises: docs/scaling.md, "Several app hosts".
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from http_visitor import NOTHING, Answer, Visitor
from servers import Server, gunicorn, running
from urls import SERVERS

APPS = Path(__file__).parents[1] / "support" / "apps"
THREADS = 8


@cache
def in_own_network() -> list[str]:
    """What comes before a command to run it in a network of its own; nothing where that is not allowed."""
    for command in (["unshare", "--net"], ["unshare", "--map-current-user", "--net"]):
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    return []


@pytest.fixture(scope="module", params=SERVERS.values(), ids=SERVERS)
def hosts(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    """Two hosts behind one server."""
    with ExitStack() as stack:
        # A socket's path has a hundred characters at most, so it does not lie in pytest's folders.
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="host"))) for _ in range(2)]
        url = request.param(folders[0])
        yield [stack.enter_context(host(folder, url)) for folder in folders]


def host(folder: Path, url: str) -> Any:
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": url}
    settings |= {"HOME": str(folder), "TMPDIR": str(folder)}
    command = gunicorn("plain_app:server", folder / "http.sock", APPS)
    return running([*in_own_network(), *command], folder / "http.sock", folder, settings)


class Wanderer(Visitor):
    """A visitor whose requests go to one host after the other."""

    def __init__(self, hosts: list[Server], cookie: str | None = None) -> None:
        super().__init__(hosts[0].port, cookie)
        self._ports = itertools.cycle([host.port for host in hosts])

    def ask(self, method: str, path: str, value: Any = NOTHING) -> Answer:
        self.port = next(self._ports)
        return super().ask(method, path, value)


def test_the_hosts_share_no_network_and_no_files(hosts: list[Server]) -> None:
    networks = {os.readlink(f"/proc/{process}/ns/net") for process in ["self", *(host.process.pid for host in hosts)]}
    assert len(networks) == (3 if in_own_network() else 1)
    Wanderer(hosts).do("PUT", "/key", "value")
    for host in hosts:
        names = {path.name for path in host.log_file.parent.rglob("*")}
        assert not any("sqlite" in name or "buffers" in name for name in names), names


def test_a_visitor_whose_requests_alternate_has_one_session_and_loses_nothing(hosts: list[Server]) -> None:
    visitor = Wanderer(hosts)
    seen = [visitor.ask("GET", "/")]
    for number in range(20):
        visitor.do("PUT", f"/{number}", number)
        seen.append(visitor.ask("GET", "/"))  # It is always the same host that writes, and the other that reads.
        assert seen[-1].body["values"] == {str(n): n for n in range(number + 1)}
        if number % 5 == 4:
            visitor.do("GET", "/")  # From now on they have changed places.
    assert len({answer.body["session"] for answer in seen}) == 1
    assert [answer.set_cookie for answer in seen[1:]] == [None] * 20
    assert len({answer.body["worker"] for answer in seen}) > 1


def test_parallel_increments_and_writes_over_both_hosts_are_exact(hosts: list[Server]) -> None:
    visitor = Wanderer(hosts)
    visitor.values()

    def work(number: int) -> list[int]:
        mine = Wanderer(hosts[:: 1 if number % 2 else -1], visitor.cookie)
        for count in range(10):
            mine.do("PUT", f"/{number}-{count}", count)
        return [mine.do("POST", "/increment")["n"] for _ in range(20)]

    with ThreadPoolExecutor(THREADS) as threads:
        sums = list(itertools.chain(*threads.map(work, range(THREADS))))
    assert sorted(sums) == list(range(1, THREADS * 20 + 1))
    stored = visitor.values()
    assert stored.pop("n") == THREADS * 20
    assert stored == {f"{number}-{count}": count for number in range(THREADS) for count in range(10)}


@pytest.mark.parametrize(("end", "left"), [("/regenerate", {"key": 1}), ("/destroy", {})])
def test_an_end_on_one_host_is_final_on_the_other_at_once(hosts: list[Server], end: str, left: dict[str, int]) -> None:
    for here, there in (hosts, hosts[::-1]):
        visitor = Visitor(here.port)
        visitor.do("PUT", "/key", 1)
        old = Visitor(there.port, visitor.cookie)
        assert old.values() == {"key": 1}

        visitor.do("POST", end)

        write, read = old.ask("PUT", "/key", 2), old.ask("GET", "/")
        assert (write.status, write.set_cookie, read.set_cookie) == (409, None, None)
        assert read.body["values"] == {}
        assert [Visitor(host.port, visitor.cookie).values() for host in hosts] == [left, left]


@pytest.mark.parametrize("end", ["/regenerate", "/destroy"])
def test_what_was_acknowledged_before_an_end_is_in_it_whichever_host_wrote_it(hosts: list[Server], end: str) -> None:
    visitor = Visitor(hosts[0].port)
    visitor.values()
    cookie = visitor.cookie

    def write(number: int) -> dict[str, int]:
        mine = Visitor(hosts[number % 2].port, cookie)
        acknowledged = {}
        for count in range(1000):  # The end comes at some time, at the latest when all others are done.
            key = f"{number}-{count}"
            answer = mine.ask("PUT", f"/{key}", count)
            if answer.status == 409 or answer.set_cookie is not None:  # A late request gets a session of its own.
                break
            assert answer.status == 200, answer
            acknowledged[key] = count
            if number == 0 and count == 5:
                visitor.do("POST", end)
        return acknowledged

    with ThreadPoolExecutor(THREADS) as threads:
        acknowledged = {key: count for part in threads.map(write, range(THREADS)) for key, count in part.items()}
    assert visitor.values() == (acknowledged if end == "/regenerate" else {})
