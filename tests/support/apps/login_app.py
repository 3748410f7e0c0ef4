"""Views that log in and out. The test steps the app's clock: the file that CLOCK_OFFSET names holds the seconds."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, g, request
from werkzeug.exceptions import HTTPException

from flask_dash_store import UserStoreMiddleware

OFFSET = Path(os.environ["CLOCK_OFFSET"])


def clock() -> float:
    return time.time() + float(OFFSET.read_text())


server = Flask(__name__)
server.config.from_prefixed_env()
stores = UserStoreMiddleware(server, clock=clock, cookie_eager=True)


def answer(**more: Any) -> dict[str, Any]:
    return {"worker": os.getpid(), **more}


@server.get("/")
def values() -> dict[str, Any]:
    return answer(values=g.user_store.copy())


@server.put("/<key>")
def put(key: str) -> dict[str, Any]:
    g.user_store[key] = request.get_json()
    return answer()


@server.post("/login/<user>")
def log_in(user: str) -> dict[str, Any]:
    """The user's own login: a test calls it for whom it means to be, as if the password were right."""
    g.user_store.regenerate(user_id=user)
    g.user_store["user"] = user
    return answer()


@server.post("/login-twice/<user>")
def log_in_twice(user: str) -> dict[str, Any]:
    """As where an extension renews the session at a login, and the view does so too."""
    g.user_store.regenerate(user_id=user)
    g.user_store.regenerate()
    return log_in(user)


@server.post("/regenerate")
def regenerate() -> dict[str, Any]:
    g.user_store.regenerate()
    return answer()


@server.post("/logout")
def log_out() -> dict[str, Any]:
    g.user_store.destroy()
    return answer()


@server.get("/sessions/<user>")
def sessions(user: str) -> dict[str, Any]:
    found = stores.sessions(user)
    return answer(sessions=[[each.created_at.timestamp(), each.last_used.timestamp(), each.nbytes] for each in found])


@server.post("/end-other-sessions/<user>")
def end_other_sessions(user: str) -> dict[str, Any]:
    return answer(ended=stores.end_sessions(user, but=g.user_store))


@server.post("/end-sessions/<user>")
def end_sessions(user: str) -> dict[str, Any]:
    return answer(ended=stores.end_sessions(user))


@server.errorhandler(HTTPException)
def as_json(error: HTTPException) -> tuple[dict[str, Any], int | None]:
    return answer(error=error.name), error.code
