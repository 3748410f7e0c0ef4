"""Views over ``flask.session`` alone, some of which wait in the middle until the test lets them go on."""

from __future__ import annotations

import os
import socket
from typing import Any

from flask import Flask, flash, get_flashed_messages, request, session

from flask_dash_store import UserStoreMiddleware

TIMEOUT = 30

server = Flask(__name__)
server.config.from_prefixed_env()
UserStoreMiddleware(server, flask_session=True)


def answer(**more: Any) -> dict[str, Any]:
    return {"worker": os.getpid(), **more}


def wait() -> None:
    """Tell the test that the view has come so far, and wait for its answer."""
    with socket.create_connection(("127.0.0.1", request.get_json()), timeout=TIMEOUT) as test:
        test.recv(1)


@server.get("/")
def index() -> dict[str, Any]:
    return answer(values=dict(session))


@server.get("/messages")
def messages() -> dict[str, Any]:
    return answer(messages=get_flashed_messages())


@server.post("/put/<key>")
def put(key: str) -> dict[str, Any]:
    session[key] = request.get_json()
    return answer()


@server.post("/slow/<key>")
def slow(key: str) -> dict[str, Any]:
    before = dict(session)
    wait()
    session[key] = True
    return answer(before=before)


@server.post("/slow-flash/<message>")
def slow_flash(message: str) -> dict[str, Any]:
    before = dict(session)
    wait()
    flash(message)
    return answer(before=before)


@server.post("/login/<user>")
def log_in(user: str) -> dict[str, Any]:
    session["_user_id"] = user
    return answer()


@server.post("/logout")
def log_out() -> dict[str, Any]:
    session.pop("_user_id")
    return answer()
