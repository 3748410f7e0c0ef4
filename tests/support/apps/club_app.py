"""A club whose members log in, keep things, flash messages and talk over a socket: all of it by ``flask.session``."""

from __future__ import annotations

import socket
from typing import Any

from flask import Flask, flash, get_flashed_messages, render_template_string, request, session
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from flask_socketio import SocketIO
from flask_wtf import CSRFProtect

from flask_dash_store import UserStoreMiddleware

TIMEOUT = 30

PAGE = """<!doctype html><title>Club</title>
<meta name="csrf-token" content="{{ csrf_token() }}">
<p id="name">{{ current_user.id if current_user.is_authenticated else "nobody" }}</p>
<script>
  async function post(path, body) {
    const token = document.querySelector("meta").content;
    const headers = {"X-CSRFToken": token, "Content-Type": "application/json"};
    return (await fetch(path, {method: "POST", headers, body: JSON.stringify(body)})).json();
  }
  async function get(path) { return (await fetch(path)).json(); }

  // As much of Socket.IO's protocol as two events need: https://socket.io/docs/v4/socket-io-protocol/
  function connect() {
    const answers = {}, socket = new WebSocket(`ws://${location.host}/socket.io/?EIO=4&transport=websocket`);
    let events = 0;
    const say = (...event) => new Promise(answer => {
      answers[++events] = answer;
      socket.send(`42${events}${JSON.stringify(event)}`);
    });
    return new Promise((connected, failed) => {
      socket.onclose = failed;
      socket.onmessage = ({data}) => {
        if (data[0] == "0") socket.send("40");
        if (data[0] == "2") socket.send("3");
        if (data.startsWith("40")) connected(say);
        const answer = data.match(/^43(\\d+)(.*)/);
        if (answer) answers[answer[1]](JSON.parse(answer[2])[0]);
      };
    });
  }
</script>"""


class Member(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


server = Flask(__name__)
server.config.from_prefixed_env()
LoginManager(server).user_loader(Member)
CSRFProtect(server)
UserStoreMiddleware(server, flask_session=True)
events = SocketIO(server, async_mode="threading", manage_session=False)


def kept() -> dict[str, Any]:
    return {key: value for key, value in session.items() if key.startswith("kept-")}


@server.get("/")
def page() -> str:
    return render_template_string(PAGE)


@server.post("/log-in/<name>")
def log_in(name: str) -> dict[str, Any]:
    login_user(Member(name))
    return {"name": current_user.id}


@server.post("/log-out")
def log_out() -> dict[str, Any]:
    logout_user()
    return {}


@server.post("/keep/<key>")
@login_required
def keep(key: str) -> dict[str, Any]:
    session[f"kept-{key}"] = current_user.id
    flash(f"{current_user.id} keeps {key}")
    return {"name": current_user.id}


@server.post("/slow/<key>")
@login_required
def slow(key: str) -> dict[str, Any]:
    """Like ``keep``, once the test lets it go on."""
    name = current_user.id
    with socket.create_connection(("127.0.0.1", request.get_json()), timeout=TIMEOUT) as test:
        test.recv(1)
    session[f"kept-{key}"] = name
    flash(f"{name} keeps {key}")
    return {"name": name}


@server.get("/kept")
def show() -> dict[str, Any]:
    return {"name": current_user.get_id(), "kept": kept()}


@server.get("/messages")
def messages() -> list[str]:
    return get_flashed_messages()


@events.on("keep")
def keep_by_event(key: str) -> dict[str, Any]:
    session[f"kept-{key}"] = current_user.get_id()
    return {"name": current_user.get_id()}


@events.on("show")
def show_by_event() -> dict[str, Any]:
    return {"name": current_user.get_id(), "kept": kept()}
