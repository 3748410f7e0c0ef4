"""What is compared as a store: each peer gives every user a mapping, by the shortest code its own manual suggests.

No two of them open the same file: a process must not reach one SQLite file through two SQLite libraries.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from flask import Flask

from flask_dash_store import UserStoreMiddleware

from .bench import Compared, Place

SECRET_KEY = "a secret for benchmarks alone"
DAY = 24 * 60 * 60

TABLE = """CREATE TABLE IF NOT EXISTS "values" (
    owner TEXT, key TEXT, value BLOB, PRIMARY KEY (owner, key)) WITHOUT ROWID"""
SELECT = 'SELECT value FROM "values" WHERE owner = ? AND key = ?'
KEYS = 'SELECT key FROM "values" WHERE owner = ?'
UPSERT = """INSERT INTO "values" VALUES (?, ?, ?)
    ON CONFLICT (owner, key) DO UPDATE SET value = excluded.value"""


class Values(Protocol):
    """One user's values."""

    def __getitem__(self, key: str, /) -> Any: ...

    def __setitem__(self, key: str, value: Any, /) -> None: ...

    def __iter__(self) -> Iterator[str]: ...


class Peer(Compared):
    """A store of values by user and key."""

    def __init__(self, place: Place) -> None:
        raise NotImplementedError

    def values(self, user: str) -> Values:
        raise NotImplementedError

    def fill(self, users: Iterable[str], key: str, value: Any) -> None:
        """Give many users a value, by whatever way is fast."""
        for user in users:
            self.values(user)[key] = value

    def close(self) -> None:
        pass


class CanPurge(Peer):
    """A peer whose values expire."""

    def fill_expired(self, users: Iterable[str], key: str, value: Any) -> None:
        raise NotImplementedError

    def purge(self) -> int:
        raise NotImplementedError


class FlaskDashStore(CanPurge):
    name = "flask_dash_store"

    def __init__(self, place: Place) -> None:
        self._url = f"sqlite:///{place.folder}/user_store.sqlite"
        self._middleware = self._install(time.time)
        self._long_ago = self._install(lambda: time.time() - 2 * DAY)

    def _install(self, clock: Callable[[], float]) -> UserStoreMiddleware:
        app = Flask("benchmark")
        app.secret_key = SECRET_KEY
        return UserStoreMiddleware(app, clock=clock, url=self._url)

    def values(self, user: str) -> Values:
        return self._middleware.open(session_id(user))

    def fill_expired(self, users: Iterable[str], key: str, value: Any) -> None:
        for user in users:
            self._long_ago.open(session_id(user))[key] = value

    def purge(self) -> int:
        return self._middleware.purge()


def session_id(user: str) -> str:
    """A session id that is the same for the same user in each process."""
    return urlsafe_b64encode(hashlib.sha256(user.encode()).digest()).rstrip(b"=").decode()


class RawApsw(Peer):
    """The least that SQLite can be asked for: no MAC, no expiry, no quota."""

    name = "raw SQLite (APSW)"
    modules = ("apsw",)

    def __init__(self, place: Place) -> None:
        self._path = str(place.folder / "apsw.sqlite")
        self._local = threading.local()

    def execute(self) -> Callable[..., Any]:
        try:
            return self._local.execute
        except AttributeError:
            self._local.execute = self._connect().execute
            return self._local.execute

    def _connect(self) -> Any:
        import apsw

        connection = apsw.Connection(self._path)
        connection.set_busy_timeout(5000)
        connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + TABLE).fetchall()
        return connection

    def values(self, user: str) -> Values:
        return _ApswValues(self, user)

    def fill(self, users: Iterable[str], key: str, value: Any) -> None:
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        with self._connect() as connection:
            connection.executemany(UPSERT, ((user, key, data) for user in users))


class _ApswValues:
    def __init__(self, peer: RawApsw, user: str) -> None:
        self._execute = peer.execute
        self._user = user

    def __getitem__(self, key: str) -> Any:
        return pickle.loads(self._execute()(SELECT, (self._user, key)).get)

    def __setitem__(self, key: str, value: Any) -> None:
        self._execute()(UPSERT, (self._user, key, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)))

    def __iter__(self) -> Iterator[str]:
        return (key for (key,) in self._execute()(KEYS, (self._user,)))


class RawSqlite3(RawApsw):
    name = "raw SQLite (sqlite3)"
    modules = ("sqlite3",)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._path = str(place.folder / "sqlite3.sqlite")

    def _connect(self) -> Any:
        import sqlite3

        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + TABLE)
        return connection

    def values(self, user: str) -> Values:
        return _Sqlite3Values(self, user)

    def fill(self, users: Iterable[str], key: str, value: Any) -> None:
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        connection = self._connect()
        connection.execute("BEGIN")
        connection.executemany(UPSERT, ((user, key, data) for user in users))
        connection.execute("COMMIT")
        connection.close()


class _Sqlite3Values(_ApswValues):
    def __getitem__(self, key: str) -> Any:
        return pickle.loads(self._execute()(SELECT, (self._user, key)).fetchone()[0])


class StockSqlitedict(Peer):
    name = "sqlitedict"
    modules = ("sqlitedict",)
    separator = "/"

    def __init__(self, place: Place) -> None:
        from sqlitedict import SqliteDict

        self._dict = SqliteDict(str(place.folder / "sqlitedict.sqlite"), autocommit=True)

    def values(self, user: str) -> Values:
        return _PrefixedValues(self._dict, user + self.separator)

    def fill(self, users: Iterable[str], key: str, value: Any) -> None:
        self._dict.update((f"{user}{self.separator}{key}", value) for user in users)

    def close(self) -> None:
        self._dict.close()


class _PrefixedValues:
    """One mapping for all users, and a scan of all its keys to find one user's."""

    def __init__(self, shared: Any, prefix: str) -> None:
        self._shared = shared
        self._prefix = prefix

    def __getitem__(self, key: str) -> Any:
        return self._shared[self._prefix + key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._shared[self._prefix + key] = value

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in self._shared if key.startswith(self._prefix))


class DashDatabaseWay(StockSqlitedict):
    name = "dash_database's way"
    separator = "_"


class Diskcache(CanPurge):
    name = "diskcache"
    modules = ("diskcache",)

    def __init__(self, place: Place) -> None:
        from diskcache import Cache

        # As it comes, it evicts the oldest values of whomever beyond 1 GB.
        self._cache = Cache(str(place.folder / "diskcache"), eviction_policy="none", size_limit=2**40)

    def values(self, user: str) -> Values:
        return _PrefixedValues(self._cache, user + "/")

    def fill(self, users: Iterable[str], key: str, value: Any) -> None:
        self._fill(users, key, value, expire=None)

    def fill_expired(self, users: Iterable[str], key: str, value: Any) -> None:
        # Each write removes a few that have expired, so that none would be left to purge.
        usual = self._cache.cull_limit
        self._cache.reset("cull_limit", 0)
        self._fill(users, key, value, expire=-1)
        self._cache.reset("cull_limit", usual)

    def _fill(self, users: Iterable[str], key: str, value: Any, expire: float | None) -> None:
        with self._cache.transact():
            for user in users:
                self._cache.set(f"{user}/{key}", value, expire=expire)

    def purge(self) -> int:
        return int(self._cache.expire())

    def close(self) -> None:
        self._cache.close()


class Serverside(Peer):
    """The backend behind dash-extensions' ``Serverside``, which keeps a callback's output in a file."""

    name = "dash-extensions Serverside"
    modules = ("dash_extensions",)

    def __init__(self, place: Place) -> None:
        from dash_extensions.enrich import FileSystemBackend

        # As it comes, it deletes at random beyond 500 values, and each after 300 seconds.
        self._backend = FileSystemBackend(str(place.folder / "serverside"), threshold=0, default_timeout=0)

    def values(self, user: str) -> Values:
        return _ServersideValues(self._backend, user)


class _ServersideValues:
    def __init__(self, backend: Any, user: str) -> None:
        self._backend = backend
        self._prefix = user + "/"

    def __getitem__(self, key: str) -> Any:
        return self._backend.get(self._prefix + key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._backend.set(self._prefix + key, value)

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("it cannot list keys")


class PickleFile(Peer):
    name = "pickle file"

    def __init__(self, place: Place) -> None:
        self._folder = place.inside("pickle").folder

    def values(self, user: str) -> Values:
        folder = self._folder / user
        folder.mkdir(exist_ok=True)
        return _FileValues(folder)


class _FileValues:
    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __getitem__(self, key: str) -> Any:
        with open(f"{self._folder}/{key}", "rb") as file:
            return pickle.load(file)

    def __setitem__(self, key: str, value: Any) -> None:
        with open(f"{self._folder}/{key}", "wb") as file:
            pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in Path(self._folder).iterdir())


class Redis(Peer):
    """A hash for each user."""

    name = "Redis"
    modules = ("redis",)
    uses_redis = True

    def __init__(self, place: Place) -> None:
        import redis

        self._redis = redis.Redis(unix_socket_path=place.redis_socket)
        self._prefix = f"{place.folder.name}/"

    def values(self, user: str) -> Values:
        return _RedisValues(self._redis, self._prefix + user)

    def fill(self, users: Iterable[str], key: str, value: Any) -> None:
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        with self._redis.pipeline(transaction=False) as pipeline:
            for user in users:
                pipeline.hset(self._prefix + user, key, data)
            pipeline.execute()

    def close(self) -> None:
        self._redis.close()


class _RedisValues:
    def __init__(self, redis: Any, name: str) -> None:
        self._redis = redis
        self._name = name

    def __getitem__(self, key: str) -> Any:
        return pickle.loads(self._redis.hget(self._name, key))

    def __setitem__(self, key: str, value: Any) -> None:
        self._redis.hset(self._name, key, pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    def __iter__(self) -> Iterator[str]:
        return (key.decode() for key in self._redis.hkeys(self._name))


PEERS: tuple[type[Peer], ...] = (
    FlaskDashStore,
    RawApsw,
    RawSqlite3,
    StockSqlitedict,
    DashDatabaseWay,
    Diskcache,
    Serverside,
    PickleFile,
    Redis,
)
