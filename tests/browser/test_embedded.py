"""An app in an iframe of another site keeps its session in Chromium: Jupyter's inline mode, with a real kernel.

The notebook's page is one that holds what the kernel displays, and is served as a notebook is: on localhost, while Dash
serves the app on 127.0.0.1. The two are two sites.

Promise: docs/security.md, "Embedded in other sites".
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel
from playwright.sync_api import FrameLocator, Page, expect
from servers import Port, running, uvicorn
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

TIMEOUT = 60
APPS = Path(__file__).parents[1] / "support" / "apps"

CELL = """
import logging
from dash import Dash, Input, Output, callback, html
from flask import session
from flask_dash_store import UserStoreMiddleware, user_store

logging.basicConfig(filename="log", filemode="w", force=True)
app = Dash("notebook")
app.server.secret_key = "only for these tests"
UserStoreMiddleware(app, url="sqlite:///{folder}/store.sqlite", {options})
app.layout = html.Div([html.Button("Count", id="count"), html.P("Ready", id="counted")])


@callback(Output("counted", "children"), Input("count", "n_clicks"), prevent_initial_call=True)
def count(_):
    return f"Counted {{{count}}}"


while True:
    try:
        app.run(jupyter_mode="{mode}", port={port})
        break
    except SystemExit:  # Dash has the server of the app before stop, but does not wait until its socket is closed.
        pass
"""
COUNT = "user_store.increment('n')"
COUNT_IN_FLASKS_SESSION = "session.update(n=session.get('n', 0) + 1) or session['n']"

# Each connection has the write-ahead log open once.
WAIT_UNTIL_ONE_APP_IS_LEFT = """
import gc, os, time

def connections():
    gc.collect()
    links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return sum(link.endswith("store.sqlite-wal") for link in links)

deadline = time.monotonic() + 20
while connections() > 1 and time.monotonic() < deadline:
    time.sleep(0.05)
print(connections())
"""


class Notebook:
    """A kernel, and what its cells display."""

    def __init__(self, folder: Path, client: Any, port: int) -> None:
        self.folder = folder
        self._client = client
        self._port = port

    def run(self, code: str) -> tuple[str, str]:
        """Run a cell. Returns what it prints, and the HTML that it displays."""
        printed, shown = [], []

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            if message["msg_type"] == "display_data":
                shown.append(content["data"].get("text/html", ""))

        reply = self._client.execute_interactive(code, output_hook=take, timeout=TIMEOUT)["content"]
        assert reply["status"] == "ok", "\n".join(reply["traceback"])
        return "".join(printed), "".join(shown)

    def run_app(self, options: str, mode: str = "inline", count: str = COUNT) -> tuple[str, str]:
        """Make the app and serve it, instead of the one that was served before."""
        return self.run(CELL.format(folder=self.folder, options=options, mode=mode, port=self._port, count=count))

    def press(self) -> Any:
        """What the callback answers a client that keeps no cookie, and no connection."""
        ids = {"id": "counted", "property": "children"}, {"id": "count", "property": "n_clicks", "value": 1}
        call = {
            "output": "counted.children",
            "outputs": ids[0],
            "inputs": [ids[1]],
            "changedPropIds": ["count.n_clicks"],
        }
        with closing(HTTPConnection("127.0.0.1", self._port, TIMEOUT)) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/_dash-update-component", json.dumps(call), headers)
            return json.loads(connection.getresponse().read())["response"]

    def warnings(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    port = Port()
    manager, client = start_new_kernel(cwd=str(folder), env=os.environ | {"IPYTHONDIR": str(folder / "ipython")})
    yield Notebook(folder, client, port.number)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()
    port.close()


@contextmanager
def served_on_localhost(html: str) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, lambda environ, start: Response(html, mimetype="text/html")(environ, start))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    thread.join()


NAME_BY_SOCKET = """url => new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.onmessage = (message) => resolve(message.data);
    socket.onerror = () => reject(new Error("The websocket failed."));
})"""
FETCH = "url => fetch(url, { mode: 'no-cors', credentials: 'include' }).then(() => null)"


def test_the_page_that_embeds_an_app_reaches_its_session_by_no_websocket_and_no_fetch(
    new_user: Callable[[], Page], tmp_path: Path
) -> None:
    environ = {"SECRET": "only for these tests", "URL": f"sqlite:///{tmp_path}/store.sqlite"}
    with (
        closing(Port()) as port,
        running(uvicorn("embedded_app:make", port.number, APPS), port.number, tmp_path, environ) as server,
        served_on_localhost(f"<iframe src='{server.url}'></iframe>") as url,
    ):
        socket = f"ws://127.0.0.1:{port.number}/socket"
        page = new_user()
        page.goto(url)
        expect(page.frame_locator("iframe").locator("p")).to_have_text("The app")
        assert page.frames[1].evaluate(NAME_BY_SOCKET, socket) == "Ada"
        assert page.evaluate(NAME_BY_SOCKET, socket) == "None"
        page.evaluate(FETCH, f"{server.url}/rename")
        assert page.frames[1].evaluate(NAME_BY_SOCKET, socket) == "Ada"


def count(app: FrameLocator | Page, expected: int) -> None:
    """Press the button, and see that the callback has counted so far."""
    expect(app.locator("#counted")).not_to_have_text(f"Counted {expected}")
    app.get_by_role("button", name="Count").click()
    expect(app.locator("#counted")).to_have_text(f"Counted {expected}")


@pytest.mark.parametrize(
    ("options", "counter"),
    [("embedded=True", COUNT), ("embedded=True, flask_session=True", COUNT_IN_FLASKS_SESSION)],
    ids=["user_store", "flask.session"],
)
def test_inline_the_session_goes_on_after_a_reload_and_after_the_cell_has_run_again(
    notebook: Notebook, new_user: Callable[[], Page], options: str, counter: str
) -> None:
    _, html = notebook.run_app(options, count=counter)
    page = new_user()
    app = page.frame_locator("iframe")
    with served_on_localhost(html) as url:
        page.goto(url)
        count(app, 1)
        count(app, 2)
        page.reload()
        count(app, 3)
        notebook.run_app(options, count=counter)
        page.reload()
        count(app, 4)
    assert notebook.warnings() == []


def test_an_app_that_a_cell_has_replaced_leaves_nothing_open_and_locks_nothing(notebook: Notebook) -> None:
    for _ in range(5):
        notebook.run_app("embedded=True")
        assert notebook.press() == {"counted": {"children": "Counted 1"}}
    assert notebook.run(WAIT_UNTIL_ONE_APP_IS_LEFT)[0] == "1\n"


def test_inline_without_it_each_callback_is_a_new_session_and_one_warning_names_it(
    notebook: Notebook, new_user: Callable[[], Page]
) -> None:
    _, html = notebook.run_app("")
    page = new_user()
    app = page.frame_locator("iframe")
    with served_on_localhost(html) as url:
        for _ in range(2):
            page.goto(url)
            count(app, 1)
    [warning] = notebook.warnings()
    assert "Set UserStoreMiddleware(app, embedded=True)" in warning


def test_in_a_tab_of_its_own_the_session_goes_on_and_is_another_than_the_iframes(
    notebook: Notebook, new_user: Callable[[], Page]
) -> None:
    page = new_user()
    with served_on_localhost(notebook.run_app("embedded=True")[1]) as url:
        page.goto(url)
        count(page.frame_locator("iframe"), 1)
        tab = page.context.new_page()
        for expected, mode in enumerate(("external", "tab"), 1):
            [address] = re.findall(r"http\S+", notebook.run_app("embedded=True", mode)[0])
            tab.goto(address)
            count(tab, expected)
        page.reload()
        count(page.frame_locator("iframe"), 2)
    assert notebook.warnings() == []


def test_by_plain_http_from_another_machine_one_warning_says_that_it_cannot_work(
    notebook: Notebook, new_user: Callable[[], Page]
) -> None:
    printed, _ = notebook.run_app("embedded=True", "external")
    page = new_user()
    for _ in range(2):
        page.goto(printed.split()[-1].replace("127.0.0.1", "0.0.0.0"))  # No browser takes this address for its own.
        count(page, 1)
    [warning] = notebook.warnings()
    assert "plain http" in warning
    assert "Serve the app over https" in warning
