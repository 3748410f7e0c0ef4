"""Views whose workers are killed: each says which worker has answered.

A value is made of its number alone, so that one that is torn can be told from a whole one.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from flask import Flask

from flask_dash_store import UserStoreMiddleware

server = Flask(__name__)
server.config.from_prefixed_env()
middleware = UserStoreMiddleware(server)
USER = "ann"


def value(number: int, nbytes: int) -> bytes:
    stamp = b"%08d" % number
    return stamp * (nbytes // len(stamp))


@server.get("/")
def index() -> dict[str, Any]:
    return {"worker": os.getpid()}


@server.put("/<key>/<int:number>/<int:nbytes>")
def put(key: str, number: int, nbytes: int) -> dict[str, Any]:
    middleware.for_user(USER)[key] = value(number, nbytes)
    return index()


@server.delete("/<key>")
def delete(key: str) -> dict[str, Any]:
    middleware.for_user(USER).pop(key, None)
    return index()


@server.post("/purge")
def purge() -> dict[str, Any]:
    middleware.purge()
    return index()


@server.post("/stay-inside")
def stay_inside() -> dict[str, Any]:
    """Write, say so, and stay in the transaction forever."""
    store = middleware.for_user(USER)
    with store.transaction():
        store.update(small=value(2, 8), large=value(2, 2**20))
        sys.stderr.write(f"inside: {os.getpid()}\n")
        threading.Event().wait()
    return index()
