"""Under uvicorn with two workers: requests in parallel, and websockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import Port, Server, running, uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

APPS = Path(__file__).parents[1] / "support" / "apps"
TIMEOUT = 30.0
KEYS = [f"key-{number}" for number in range(8)]


@pytest.fixture(scope="module", params=["fastapi", "quart"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    environ = {"SECRET": "only for these tests", "URL": f"sqlite:///{folder}/store.sqlite"}
    port = Port()
    with running(uvicorn(f"socket_app:{request.param}", port.number, APPS), port.number, folder, environ) as server:
        yield server
    port.close()


@pytest.fixture
def visitor(server: Server) -> Iterator[httpx.Client]:
    """One who has opened the page."""
    with httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
        assert client.get("/").status_code == 200
        yield client


def open_socket(server: Server, cookies: httpx.Cookies | None = None) -> ClientConnection:
    crumbs = "; ".join(f"{name}={value}" for name, value in (cookies or {}).items())
    return connect(
        f"{server.url.replace('http', 'ws', 1)}/_dash-ws-callback",
        origin=server.url,  # type: ignore[arg-type]
        additional_headers={"Cookie": crumbs} if crumbs else None,
    )


def call(socket: ClientConnection, output: str, value: str = "", **others: Any) -> Any:
    """What a callback returns that is called over a websocket, as Dash's renderer does it."""
    payload = {
        "output": f"{output}.children",
        "outputs": {"id": output, "property": "children"},
        "inputs": [{"id": "in", "property": "children", "value": value}],
        "state": [{"id": "in", "property": "id", "value": "in"}],
        "changedPropIds": ["in.children"],
        **others,
    }
    request = {"type": "callback_request", "rendererId": "one", "requestId": output, "payload": payload}
    socket.send(json.dumps(request))
    answer = json.loads(socket.recv(TIMEOUT))
    assert answer["payload"]["status"] == "ok", answer
    return answer["payload"]["data"]["response"][output]["children"]


def wait_until_closed(socket: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(TIMEOUT)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_keys_that_are_written_in_parallel_in_both_workers_are_all_kept(server: Server) -> None:
    deadline, pids = time.monotonic() + TIMEOUT, set[int]()
    with ThreadPoolExecutor(8) as threads:
        while len(pids) < 2:
            assert time.monotonic() < deadline, "one worker has answered all requests"
            with httpx.Client(base_url=server.url, timeout=TIMEOUT) as page:
                page.get("/")
                cookies = dict(page.cookies)

            def write(key: str, cookies: dict[str, str] = cookies) -> int:
                with httpx.Client(base_url=server.url, timeout=TIMEOUT, cookies=cookies) as client:
                    return int(client.get(f"/write/{key}").json()["pid"])

            pids |= set(threads.map(write, KEYS))
            with httpx.Client(base_url=server.url, timeout=TIMEOUT, cookies=cookies) as page:
                assert page.get("/values").json() == {key: key for key in KEYS}


def test_callbacks_over_a_websocket_have_the_store_of_the_pages_visitor(server: Server, visitor: httpx.Client) -> None:
    with open_socket(server, visitor.cookies) as socket:
        assert call(socket, "write", "Ada") == "written"
        assert (call(socket, "read"), call(socket, "read-async")) == ("Ada", "Ada")
    assert visitor.get("/values").json() == {"sockets": 1, "name": "Ada"}


@pytest.mark.parametrize("callback", ["tab", "tab-async"])
def test_callbacks_of_several_tabs_over_one_websocket_each_have_their_tabs_store(
    server: Server, visitor: httpx.Client, callback: str
) -> None:
    one, two = "1" * 32, "2" * 32
    with open_socket(server, visitor.cookies) as socket:
        assert call(socket, callback, "first", userStoreTab=one) == "first"
        assert call(socket, callback, userStoreTab=two) == "None"
        assert call(socket, callback, userStoreTab=one) == "first"
        for tab in ({}, {"userStoreTab": "another's"}, {"userStoreTab": None}, {"userStoreTab": [one]}):
            assert "There is no browser tab here" in call(socket, callback, **tab)


def test_a_websocket_brings_a_new_visitor_the_cookie(server: Server) -> None:
    with open_socket(server) as socket:
        call(socket, "write", "Bob")
        assert socket.response is not None
        (header,) = socket.response.headers.get_all("Set-Cookie")
    cookie = SimpleCookie(header)["user_store"].value
    with httpx.Client(base_url=server.url, timeout=TIMEOUT, cookies={"user_store": cookie}) as client:
        assert client.get("/values").json() == {"sockets": 1, "name": "Bob"}


def test_a_login_over_a_websocket_says_that_it_cannot_bring_the_cookie_and_ends_nothing(
    server: Server, visitor: httpx.Client
) -> None:
    with open_socket(server, visitor.cookies) as socket:
        call(socket, "write", "Ada")
        assert "could not bring the browser the new id" in call(socket, "login")
        assert call(socket, "read") == "Ada"


@pytest.mark.parametrize(("path", "expected"), [("/login", "Ada"), ("/logout", "None")])
def test_after_a_login_or_logout_over_http_the_socket_is_closed_and_the_next_one_has_the_new_session(
    server: Server, visitor: httpx.Client, path: str, expected: str
) -> None:
    with open_socket(server, visitor.cookies) as socket:
        call(socket, "write", "Ada")
        visitor.get(path)
        assert wait_until_closed(socket) == (1012, "The session has ended.")
    with open_socket(server, visitor.cookies) as socket:
        assert call(socket, "read") == expected
        call(socket, "write", "Eve")
        assert call(socket, "read-async") == "Eve"
