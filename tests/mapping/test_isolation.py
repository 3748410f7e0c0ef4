"""No visitor's value is ever in another's answer: threads, processes, greenlets, async views and Dash callbacks.

Each client writes its own tag again and again, and everything that it is answered must be its own. SOAK=1 lets each of
the 50 clients send 1000 requests to each server instead of a few.

Promise: docs/security.md, "Isolation". redis-py handed answers to the next caller of a connection after a command was
cancelled (CVE-2023-28858, CVE-2023-28859).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import soak
from http_visitor import Visitor
from servers import Port, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"
CLIENTS = 50
REQUESTS = soak.repeats(ci=20, soak=1000)
KEYS = 5
REPEATS = 15_000


def by_view(visitor: Visitor, sent: dict[str, Any]) -> dict[str, Any]:
    return visitor.do("POST", "/view", sent)


def by_async_view(visitor: Visitor, sent: dict[str, Any]) -> dict[str, Any]:
    return visitor.do("POST", "/async", sent)


def by_callback(visitor: Visitor, sent: dict[str, Any]) -> Any:
    body = {
        "output": "seen.data",
        "outputs": {"id": "seen", "property": "data"},
        "inputs": [{"id": "tag", "property": "value", "value": sent}],
        "changedPropIds": ["tag.value"],
    }
    return visitor.do("POST", "/_dash-update-component", body)["response"]["seen"]["data"]


Way = Callable[[Visitor, dict[str, Any]], Any]

SERVERS: dict[str, tuple[list[str], dict[str, str], list[Way]]] = {
    "threads": (["--worker-class", "gthread"], {}, [by_view, by_callback]),
    "async": (["--worker-class", "gthread"], {"TAGGED_APP_ASYNC": "1"}, [by_async_view, by_callback]),
    "gevent": (["--worker-class", "gevent"], {}, [by_view, by_callback]),
}


class Client:
    """A visitor who knows what it has written, and that no one else writes there."""

    def __init__(self, port: int, number: int) -> None:
        self.tag = f"tag-{number:05}-"
        self.visitor = Visitor(port)
        self.written: dict[str, Any] = {}

    def exchange(self, count: int, way: Way) -> None:
        self.written |= {f"key-{count % KEYS}": [self.tag, count], "fifths": count // 5 + 1}
        seen = way(self.visitor, {"tag": self.tag, "count": count})
        assert seen["values"] == self.written
        assert seen["keys"] == sorted(self.written)
        assert seen["large"] == [self.tag, REPEATS]


@pytest.mark.timeout(120 if REQUESTS < 1000 else 3600)
@pytest.mark.parametrize("name", SERVERS)
def test_whatever_50_clients_write_at_once_each_is_answered_with_its_own_values_alone(
    tmp_path: Path, name: str
) -> None:
    options, environ, ways = SERVERS[name]
    environ |= {
        "FLASK_SECRET_KEY": "only for these tests",
        "FLASK_USER_STORE_URL": f"sqlite:///{tmp_path}/store.sqlite",
        "FLASK_USER_STORE_TIMEOUT": "60",  # Many writers at once on a busy machine are not what is tried here.
    }
    port = Port()
    clients = [Client(port.number, number) for number in range(CLIENTS)]

    def work(client: Client) -> None:
        for count in range(REQUESTS):
            client.exchange(count, ways[count % len(ways)])

    command = gunicorn("tagged_app:server", port.number, APPS, "--timeout", "100", *options)
    with running(command, port.number, tmp_path, environ), ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(work, clients))
    port.close()
    assert len({client.visitor.cookie for client in clients}) == CLIENTS
