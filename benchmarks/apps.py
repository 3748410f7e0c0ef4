"""What is compared as an app: the same views everywhere, over what each app finds to be the visitor's values.

A function sets a store up on a Flask app, and returns a function that gives the values of the request's visitor.
"""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, make_response, request, session

from flask_dash_store import UserStoreMiddleware

from .peers import PEERS, SECRET_KEY, sqlite_url
from .servers import redis_socket

CALLBACK_SECONDS = 0.02
COOKIE_BYTES = 88  # as long as the cookie of flask_dash_store, so that what parses the header has as much to parse

Visitors = Callable[[], Any]
SetUp = Callable[[Flask, Path], Visitors]


def _flask_dash_store(flask: Flask, url: str, clock: Callable[[], float] = time.time) -> Visitors:
    UserStoreMiddleware(flask, url=url, clock=clock)
    return lambda: g.user_store


def _in_flask_session(flask: Flask, folder: Path) -> Visitors:
    UserStoreMiddleware(flask, url=sqlite_url(folder), flask_session=True)
    return lambda: session


def _by_a_clock(flask: Flask, folder: Path) -> Visitors:
    return _flask_dash_store(flask, sqlite_url(folder), lambda: (folder / "clock").stat().st_mtime)


def _flask_session(flask: Flask, folder: Path) -> Visitors:
    import flask_session
    from cachelib import FileSystemCache

    flask.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(folder / "sessions")))
    flask_session.Session(flask)
    return lambda: session


def _flask_session_on_redis(flask: Flask, folder: Path) -> Visitors:
    import flask_session
    import redis

    flask.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis(unix_socket_path=redis_socket()))
    flask_session.Session(flask)
    return lambda: session


def _by_hand(peer: str) -> SetUp:
    """A store that knows no requests, with an unsigned cookie and a line of one's own."""
    return lambda flask, folder: _visitors(PEERS[peer](folder))


def _visitors(values: Callable[[str], Any]) -> Visitors:
    return lambda: values(request.cookies["visitor"])


OURS, RAW, BARE, BY_A_CLOCK = "flask_dash_store", "raw SQLite, by hand", "bare Flask", "by the time of a file"
OURS_IN_SESSION, FLASK_COOKIE = "flask_dash_store, in flask.session", "Flask cookie session"
OURS_ON_REDIS, FLASK_SESSION_ON_REDIS = "flask_dash_store (Redis)", "Flask-Session (Redis)"
FLASK_SESSION_IN_FILES = "Flask-Session (files)"
SESSIONS: dict[str, SetUp] = {
    OURS: lambda flask, folder: _flask_dash_store(flask, sqlite_url(folder)),
    OURS_ON_REDIS: lambda flask, folder: _flask_dash_store(flask, f"unix://{redis_socket()}"),
    OURS_IN_SESSION: _in_flask_session,
    FLASK_COOKIE: lambda flask, folder: lambda: session,
    FLASK_SESSION_ON_REDIS: _flask_session_on_redis,
    FLASK_SESSION_IN_FILES: _flask_session,
}
APPS: dict[str, SetUp] = {
    BARE: lambda flask, folder: lambda: {"n": 0},
    RAW: _by_hand("raw SQLite"),
    **SESSIONS,
    "diskcache, by hand": _by_hand("diskcache"),
    "Redis, by hand": _by_hand("Redis"),
}
WITHOUT_COOKIE = set(APPS) - set(SESSIONS)


def create(name: str, folder: str | Path) -> Flask:
    """The Flask app; gunicorn calls this too. A visitor gets ``/start``, which brings the cookie, then ``/begin``."""
    flask = Flask("benchmark")
    flask.secret_key = SECRET_KEY
    values = (_by_a_clock if name == BY_A_CLOCK else APPS[name])(flask, Path(folder))

    def start() -> Response:
        response = make_response(str(os.getpid()))
        if name in WITHOUT_COOKIE:
            response.set_cookie("visitor", secrets.token_urlsafe(COOKIE_BYTES))
        return response

    def begin() -> str:
        values()["n"] = 0
        return "begun"

    def read() -> str:
        return str(values()["n"])

    def write() -> str:
        mine = values()
        mine["n"] = n = mine["n"] + 1
        return str(n)

    def callback(key: str) -> str:
        mine = values()
        time.sleep(CALLBACK_SECONDS)
        mine[key] = "result"
        return "stored"

    flask.add_url_rule("/untouched", "untouched", lambda: "0")
    flask.add_url_rule("/cookie", "cookie", lambda: request.headers["Cookie"])
    flask.add_url_rule("/kept", "kept", lambda: str(sum(key.startswith("result-") for key in values())))
    flask.add_url_rule("/callback/<key>", "callback", callback)
    for view in (start, begin, read, write):
        flask.add_url_rule(f"/{view.__name__}", view.__name__, view)
    return flask
