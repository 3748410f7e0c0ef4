"""What is compared as a store: each gives every user a mapping, by the shortest code its own manual suggests.

A function opens one in a folder, and returns a function that gives the values of a user. No two of them open the same
file: a process must not reach one SQLite file through two SQLite libraries.
"""

import hashlib
import pickle
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
from flask import Flask

from flask_dash_store import UserStoreMiddleware

from .servers import redis_socket

SECRET_KEY = "a secret for benchmarks alone"

dumps = partial(pickle.dumps, protocol=pickle.HIGHEST_PROTOCOL)
ValuesOf = Callable[[str], Any]  # the values of a user, a mapping


def install(url: str, clock: Callable[[], float] = time.time) -> UserStoreMiddleware:
    """flask_dash_store on an app that serves no requests."""
    app = Flask("benchmark")
    app.secret_key = SECRET_KEY
    return UserStoreMiddleware(app, clock=clock, url=url)


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/user_store.sqlite"


def session_id(user: str) -> str:
    """A session id that is the same for the same user in each process."""
    return urlsafe_b64encode(hashlib.sha384(user.encode()).digest()).decode()


def _flask_dash_store(folder: Path) -> ValuesOf:
    stores = install(sqlite_url(folder))
    return lambda user: stores.open(session_id(user))


SET_UP = """PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS "values" (
        owner TEXT, key TEXT, value BLOB, PRIMARY KEY (owner, key)) WITHOUT ROWID"""
SELECT = 'SELECT value FROM "values" WHERE owner = ? AND key = ?'
UPSERT = """INSERT INTO "values" VALUES (?, ?, ?)
    ON CONFLICT (owner, key) DO UPDATE SET value = excluded.value"""


def _raw_sqlite(folder: Path) -> ValuesOf:
    connection = apsw.Connection(str(folder / "raw.sqlite"))
    connection.set_busy_timeout(5000)
    connection.execute(SET_UP).fetchall()
    # Two threads at once would be refused with ThreadingViolationError.
    return partial(_RawValues, connection.execute, threading.Lock())


class _RawValues:
    """No MAC, no expiry, no quota; one connection for all threads of the process."""

    def __init__(self, execute: Callable[..., Any], lock: threading.Lock, user: str) -> None:
        self._execute = execute
        self._lock = lock
        self._user = user

    def __getitem__(self, key: str) -> Any:
        with self._lock:
            data = self._execute(SELECT, (self._user, key)).get
        return pickle.loads(data)

    def __setitem__(self, key: str, value: Any) -> None:
        data = dumps(value)
        with self._lock:
            self._execute(UPSERT, (self._user, key, data))


class _Prefixed:
    """The values of a user whose name all keys begin with."""

    def __init__(self, get: Callable[[str], Any], put: Callable[[str, Any], object], user: str) -> None:
        self._get = get
        self._put = put
        self._prefix = f"{user}:"

    def __getitem__(self, key: str) -> Any:
        return self._get(self._prefix + key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._put(self._prefix + key, value)


def _sqlitedict(folder: Path) -> ValuesOf:
    from sqlitedict import SqliteDict

    shared = SqliteDict(str(folder / "sqlitedict.sqlite"), autocommit=True)
    return partial(_Prefixed, shared.__getitem__, shared.__setitem__)


def _diskcache(folder: Path) -> ValuesOf:
    from diskcache import Cache

    # As it comes, it evicts the oldest values beyond 1 GB, whichever user's they are.
    cache = Cache(str(folder / "diskcache"), eviction_policy="none", size_limit=2**40)
    return partial(_Prefixed, cache.__getitem__, cache.__setitem__)


def _pickle_file(folder: Path) -> ValuesOf:
    def get(key: str) -> Any:
        with open(f"{folder}/{key}", "rb") as file:
            return pickle.load(file)

    def put(key: str, value: Any) -> None:
        with open(f"{folder}/{key}", "wb") as file:
            pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)

    return partial(_Prefixed, get, put)


def _redis(folder: Path) -> ValuesOf:
    import redis

    server = redis.Redis(unix_socket_path=redis_socket())
    return partial(_Prefixed, lambda key: pickle.loads(server.get(key)), lambda key, new: server.set(key, dumps(new)))


OURS, RAW = "flask_dash_store", "raw SQLite"

PEERS: dict[str, Callable[[Path], ValuesOf]] = {
    OURS: _flask_dash_store,
    RAW: _raw_sqlite,
    "sqlitedict": _sqlitedict,
    "diskcache": _diskcache,
    "pickle file": _pickle_file,
    "Redis": _redis,
}
