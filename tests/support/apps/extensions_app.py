"""An app with the extensions that most apps have: Flask-Login, Flask-WTF, flashed messages and Flask-SocketIO."""

from __future__ import annotations

import socket
from typing import Any

from flask import Flask, flash, get_flashed_messages, redirect, render_template_string, request, session
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from flask_socketio import SocketIO
from flask_wtf import CSRFProtect, FlaskForm
from wtforms import StringField

from flask_dash_store import UserStoreMiddleware

TIMEOUT = 30

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<p id="who">{{ current_user.get_id() or "nobody" }}</p>
<ul id="messages">{% for message in get_flashed_messages() %}<li>{{ message }}</li>{% endfor %}</ul>
{% if current_user.is_authenticated %}
<form method="post" action="/logout">{{ form.csrf_token }}<button>Log out</button></form>
{% else %}
<form method="post" action="/login">
  {{ form.csrf_token }}{{ form.user(placeholder="Name") }}<button>Log in</button>
</form>
{% endif %}
<script>
  const headers = {"X-CSRFToken": "{{ csrf_token() }}", "Content-Type": "application/json"};
  const post = async (path, body) => (await fetch(path, {method: "POST", headers, body: JSON.stringify(body)})).json();
  const get = async path => (await fetch(path)).json();

  // As much of Socket.IO's protocol as events need: https://socket.io/docs/v4/socket-io-protocol/
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
</script>
"""


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


class LoginForm(FlaskForm):
    user = StringField()


server = Flask(__name__)
server.config.from_prefixed_env()
UserStoreMiddleware(server, flask_session=True)
LoginManager(server).user_loader(User)
CSRFProtect(server)
events = SocketIO(server, manage_session=False, async_mode="threading")


@server.get("/")
def index() -> str:
    return render_template_string(PAGE, form=LoginForm())


@server.post("/login")
def log_in() -> Any:
    form = LoginForm()
    if form.validate_on_submit():
        login_user(User(str(form.user.data)))
        flash("Welcome")
    return redirect("/", 303)


@server.post("/logout")
def log_out() -> Any:
    logout_user()
    flash("Goodbye")
    return redirect("/", 303)


def keep(key: str, name: str) -> dict[str, Any]:
    session[f"key {key}"] = name
    flash(f"{name} keeps {key}")
    return {"name": name}


@server.post("/keep/<key>")
@login_required
def keep_now(key: str) -> dict[str, Any]:
    return keep(key, current_user.id)


@server.post("/slow/<key>")
@login_required
def keep_later(key: str) -> dict[str, Any]:
    """Once the test lets it go on."""
    name = current_user.id
    with socket.create_connection(("127.0.0.1", request.get_json()), timeout=TIMEOUT) as test:
        test.recv(1)
    return keep(key, name)


@server.get("/kept")
def kept() -> dict[str, Any]:
    return {key: value for key, value in session.items() if key.startswith("key ")}


@server.get("/messages")
def messages() -> list[str]:
    return get_flashed_messages()


@events.on("keep")
def keep_by_event(key: str) -> dict[str, Any]:
    session[f"key {key}"] = current_user.get_id()
    return {"name": current_user.get_id()}


@events.on("kept")
def kept_by_event() -> dict[str, Any]:
    return kept()
