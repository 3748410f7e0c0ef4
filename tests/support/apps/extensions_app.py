"""An app with the extensions that most apps have: Flask-Login, Flask-WTF, flashed messages and Flask-SocketIO."""

from __future__ import annotations

from typing import Any

from flask import Flask, flash, redirect, render_template_string, session
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from flask_socketio import SocketIO
from flask_wtf import CSRFProtect, FlaskForm
from wtforms import StringField

from flask_dash_store import UserStoreMiddleware

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<p id="who">{{ current_user.get_id() or "nobody" }}</p>
<ul id="keys">{% for key in session|sort if key.startswith("key") %}<li>{{ key }}</li>{% endfor %}</ul>
<ul id="messages">{% for message in get_flashed_messages() %}<li>{{ message }}</li>{% endfor %}</ul>
<p id="said">{{ session.get("said", [])|join(" ") }}</p>
{% if current_user.is_authenticated %}
<form method="post" action="/logout">{{ form.csrf_token }}<button>Log out</button></form>
<button id="many">Many requests</button> <button id="say">Say hello</button>
<script>
const put = n => fetch(`/put/${n}`, {method: "POST", headers: {"X-CSRFToken": "{{ csrf_token() }}"}})
many.onclick = () => Promise.all([...Array(8).keys()].map(put)).then(() => location.reload())
say.onclick = () => {
  const socket = new WebSocket(`ws://${location.host}/socket.io/?EIO=4&transport=websocket`)
  const answers = {"0": () => socket.send("40"), "40": () => socket.send('420["say","hello"]'),
                   "430": () => { socket.close(); location.reload() }}
  socket.onmessage = event => answers[event.data.match(/^[0-9]+/)[0]]?.()
}
</script>
{% else %}
<form method="post" action="/login">
  {{ form.csrf_token }}{{ form.user(placeholder="Name") }}<button>Log in</button>
</form>
{% endif %}
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


@server.post("/put/<int:number>")
@login_required
def put(number: int) -> str:
    session[f"key {number}"] = current_user.get_id()
    flash(f"message {number}")
    return ""


@events.on("say")
def say(word: str) -> None:
    session.setdefault("said", []).append(f"{word} {current_user.get_id()}")
