"""What is compared as an app: the same views everywhere, over what each app finds to be the visitor's values."""

from __future__ import annotations

import secrets
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, ClassVar

from flask import Flask, Response, g, make_response, request, session

from flask_dash_store import UserStoreMiddleware

from .bench import Compared, Place
from .peers import SECRET_KEY, Diskcache, Peer, RawApsw, Redis, Serverside, StockSqlitedict, Values

CALLBACK_SECONDS = 0.02

# As long as the cookie of flask_dash_store, so that what parses the header has as much to parse.
COOKIE_BYTES = 88


class App(Compared):
    """A Flask app; by itself a bare one, with views that find nothing of the visitor's."""

    secret_key: ClassVar[str | None] = SECRET_KEY

    def __init__(self, place: Place) -> None:
        self.flask = Flask("benchmark")
        self.flask.secret_key = self.secret_key
        self.install(place)
        _add_views(self)

    def install(self, place: Place) -> None:
        """Set up the store on the Flask app."""

    def values(self) -> Values | MutableMapping[str, Any]:
        """The present visitor's."""
        raise NotImplementedError

    def start(self, response: Response) -> None:
        """Greet a new visitor."""
        self.values()["n"] = 0


def _add_views(app: App) -> None:
    flask, values = app.flask, app.values

    @flask.get("/start")
    def start() -> Response:
        response = make_response("started")
        app.start(response)
        return response

    @flask.get("/untouched")
    def untouched() -> str:
        return "0"

    @flask.get("/read")
    def read() -> str:
        return str(values()["n"])

    @flask.get("/write")
    def write() -> str:
        mine = values()
        mine["n"] = n = mine["n"] + 1
        return str(n)

    @flask.get("/callback/<key>")
    def callback(key: str) -> str:
        mine = values()
        time.sleep(CALLBACK_SECONDS)
        mine[key] = "result"
        return "stored"

    @flask.get("/keys")
    def keys() -> list[str]:
        return sorted(values())


class BareFlask(App):
    """The same app without any store: a constant in the place of the visitor's value."""

    name = "bare Flask"

    def values(self) -> MutableMapping[str, Any]:
        return {"n": 0}

    def start(self, response: Response) -> None:
        response.set_cookie("visitor", secrets.token_urlsafe(COOKIE_BYTES))


class BareFlaskWithoutSecret(BareFlask):
    """Without SECRET_KEY Flask does not look for its own session cookie, so it is a little faster still."""

    name = "bare Flask, no SECRET_KEY"
    secret_key = None


class FlaskDashStoreApp(App):
    name = "flask_dash_store"

    def install(self, place: Place) -> None:
        UserStoreMiddleware(self.flask, url=f"sqlite:///{place.folder}/user_store.sqlite")

    def values(self) -> MutableMapping[str, Any]:
        return g.user_store


class FlaskDashStoreOnRedis(FlaskDashStoreApp):
    name = "flask_dash_store (Redis)"
    modules = ("redis",)
    uses_redis = True

    def install(self, place: Place) -> None:
        UserStoreMiddleware(self.flask, url=f"unix://{place.redis_socket}")


class FlaskDashStoreOnPostgresql(FlaskDashStoreApp):
    name = "flask_dash_store (PostgreSQL)"
    modules = ("psycopg",)
    uses_postgresql = True

    def install(self, place: Place) -> None:
        UserStoreMiddleware(self.flask, url=place.postgresql)


class CookieSession(App):
    name = "Flask cookie session"

    def values(self) -> MutableMapping[str, Any]:
        return session


class FlaskSession(CookieSession):
    """Flask-Session, which reads the whole session before each request, and writes it whole after a change."""

    def install(self, place: Place) -> None:
        from flask_session import Session

        self.flask.config.update(self.settings(place))
        Session(self.flask)

    def settings(self, place: Place) -> dict[str, Any]:
        raise NotImplementedError


class FlaskSessionRedis(FlaskSession):
    name = "Flask-Session (Redis)"
    modules = ("flask_session", "redis")
    uses_redis = True

    def settings(self, place: Place) -> dict[str, Any]:
        import redis

        return {"SESSION_TYPE": "redis", "SESSION_REDIS": redis.Redis(unix_socket_path=place.redis_socket)}


class FlaskSessionFiles(FlaskSession):
    name = "Flask-Session (filesystem)"
    modules = ("flask_session", "cachelib")

    def settings(self, place: Place) -> dict[str, Any]:
        from cachelib import FileSystemCache

        return {"SESSION_TYPE": "cachelib", "SESSION_CACHELIB": FileSystemCache(str(place.folder / "sessions"))}


class FlaskSessionSqlalchemy(FlaskSession):
    name = "Flask-Session (SQLAlchemy, SQLite)"
    modules = ("flask_session", "flask_sqlalchemy")

    def settings(self, place: Place) -> dict[str, Any]:
        from flask_sqlalchemy import SQLAlchemy

        self.flask.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{place.folder}/sessions.sqlite"
        return {"SESSION_TYPE": "sqlalchemy", "SESSION_SQLALCHEMY": SQLAlchemy(self.flask)}


class ByHand(App):
    """A store that knows no requests, by an unsigned cookie and a line of one's own."""

    peer: ClassVar[type[Peer]]

    def install(self, place: Place) -> None:
        self._peer = self.peer(place)

    def values(self) -> Values:
        return self._peer.values(request.cookies["visitor"])

    def start(self, response: Response) -> None:
        visitor = secrets.token_urlsafe(COOKIE_BYTES)
        response.set_cookie("visitor", visitor)
        self._peer.values(visitor)["n"] = 0


def _by_hand(kind: type[Peer]) -> type[ByHand]:
    class PeerByHand(ByHand):
        name = f"{kind.name}, by hand"
        modules = kind.modules
        uses_redis = kind.uses_redis
        peer = kind

    return PeerByHand


ServersideByHand = _by_hand(Serverside)

SESSIONS: tuple[type[FlaskSession], ...] = (FlaskSessionRedis, FlaskSessionFiles, FlaskSessionSqlalchemy)
APPS: tuple[type[App], ...] = (
    BareFlaskWithoutSecret,
    BareFlask,
    FlaskDashStoreApp,
    FlaskDashStoreOnRedis,
    FlaskDashStoreOnPostgresql,
    CookieSession,
    *SESSIONS,
    _by_hand(RawApsw),
    _by_hand(StockSqlitedict),
    _by_hand(Diskcache),
    ServersideByHand,
    _by_hand(Redis),
)


def create(name: str, folder: str, redis_socket: str | None, postgresql: str | None) -> Flask:
    """What gunicorn calls."""
    app = next(each for each in APPS if each.name == name)
    return app(Place(Path(folder), redis_socket, postgresql)).flask
