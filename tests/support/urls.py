"""USER_STORE_URL on each backend, for the tests of what an app does: the fixture ``url`` of conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import apsw
import psycopg
import servers_postgresql
from psycopg.sql import SQL, Identifier
from redis import Redis
from servers_redis import shared_server


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder}/store.sqlite"


def redis(folder: Path) -> str:
    return f"{shared_server()}?prefix={_name(folder)}:"


def postgresql(folder: Path) -> str:
    return f"{servers_postgresql.shared_url()}&schema={_name(folder)}"


def _name(folder: Path) -> str:
    return f"tests_{sha256(bytes(folder)).hexdigest()[:32]}"


URLS: dict[str, Callable[[Path], str]] = {"sqlite": sqlite, "redis": redis, "postgresql": postgresql}
"""By the backend's name: the URL of a store that belongs to a folder alone."""

SERVERS = {name: make for name, make in URLS.items() if name != "sqlite"}


def rewrite(url: str, key: str, change: Callable[[bytes], bytes]) -> None:
    """Change what is stored under a key, of any owner, by the backend's own means and not by the package."""
    parts = urlsplit(url)
    changes = {"sqlite": _in_sqlite, "unix": _in_redis, "postgresql": _in_postgresql}
    assert changes[parts.scheme](url, key, change) > 0


def _in_sqlite(url: str, key: str, change: Callable[[bytes], bytes]) -> int:
    connection = apsw.Connection(urlsplit(url).path)
    rows = connection.execute('SELECT key, value FROM "values" WHERE key LIKE ?', (f"%/{key}",)).fetchall()
    connection.executemany('UPDATE "values" SET value = ? WHERE key = ?', [(change(value), at) for at, value in rows])
    connection.close()
    return len(rows)


def _in_redis(url: str, key: str, change: Callable[[bytes], bytes]) -> int:
    parts = urlsplit(url)
    changed = 0
    with Redis(unix_socket_path=parts.path) as client:
        for at in client.scan_iter(f"{parse_qs(parts.query)['prefix'][0]}*"):
            payload = client.hget(at, f"v:{key}")
            if payload is not None:
                changed += client.hset(at, f"v:{key}", change(payload)) == 0
    return changed


def _in_postgresql(url: str, key: str, change: Callable[[bytes], bytes]) -> int:
    server, _, schema = url.partition("&schema=")
    table = Identifier(schema, "values")
    with psycopg.connect(server) as connection:
        select = SQL("SELECT session, payload FROM {} WHERE key = %s").format(table)
        rows = connection.execute(select, (key.encode(),)).fetchall()
        update = SQL("UPDATE {} SET payload = %s WHERE session = %s AND key = %s").format(table)
        for session, payload in rows:
            connection.execute(update, (change(payload), session, key.encode()))
    return len(rows)


def end_leases(url: str) -> None:
    """What a Redis server does by itself when the holder of a lease has not been heard of for ten seconds."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        with Redis(unix_socket_path=parts.path) as client:
            for lease in client.scan_iter(f"{parse_qs(parts.query)['prefix'][0]}*:lease"):
                client.delete(lease)
