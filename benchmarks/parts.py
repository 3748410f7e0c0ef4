"""Where the microseconds of a read, a write and a request go: `python -m benchmarks.parts`."""

from __future__ import annotations

import statistics
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from flask import Flask
from werkzeug.test import create_environ

from flask_dash_store import UserStoreMiddleware
from flask_dash_store.storage.sqlite import schema

ROUNDS = 40
CALLS = 500

Part = tuple[str, Callable[[], object]]


def parts_of(folder: Path) -> list[Part]:
    app = Flask("parts", instance_path=str(folder))
    app.secret_key = "k" * 32
    middleware = UserStoreMiddleware(app)
    store = middleware.for_user("user", ttl=24 * 60 * 60)
    store["n"] = 1
    storage, codec, owner = store._storage, store._codec, store._owner
    database, place, access = storage._database, f"{owner}/n", store._access()
    payload, _ = storage.get(owner, "n", access)
    connection = database._pool.acquire()
    wsgi, environ = app.wsgi_app, create_environ("/")
    environ["HTTP_COOKIE"] = f"user_store={wsgi._cookie._signer.sign('a' * 43).decode()}"
    value = 'SELECT value FROM "values" WHERE key = ?'
    return [
        ("store[key]", lambda: store["n"]),
        ("– check of the key", lambda: store._check_key("n")),
        ("– the present access", lambda: store._access()),
        ("– one SELECT of value and expiry", lambda: connection.execute(schema.GET, (owner, place)).fetchone()),
        ("  – a SELECT of the value alone", lambda: connection.execute(value, (place,)).fetchone()),
        ("– the same through pool and database", lambda: database.select_one(schema.GET, (owner, place))),
        ("– MAC and pickle.loads", lambda: codec.decode(owner, "n", payload, None)),
        ("  – MAC", lambda: codec._seal.open(owner, "n", payload)),
        ("store[key] = value", lambda: store.__setitem__("n", 1)),
        ("– pickle.dumps and MAC", lambda: codec.encode(owner, "n", 1)),
        ("– one UPDATE with its commit", lambda: storage._overwrite(owner, place, payload, access)),
        ("what the middleware adds before the app", lambda: wsgi._visit(environ, access.now)),
        ("– the cookie, verified before", lambda: wsgi._cookie.read(environ["HTTP_COOKIE"])),
        ("– the cookie, its signature computed", lambda: wsgi._cookie._verify_signature(environ["HTTP_COOKIE"][11:])),
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = parts_of(Path(folder))
        samples: dict[str, list[float]] = {name: [] for name, _ in parts}
        for _ in range(ROUNDS):
            for name, call in parts:
                samples[name].append(timeit.timeit(call, number=CALLS) / CALLS * 1e6)
    print("| part | µs (median) |\n| --- | --- |")
    for name, times in samples.items():
        print(f"| {name} | {statistics.median(times):.1f} |")


if __name__ == "__main__":
    main()
