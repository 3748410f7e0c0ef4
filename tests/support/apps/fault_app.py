"""Views over the store that say which of the package's errors they have met, if any."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, g, request

from flask_dash_store import SessionEnded, UserStoreError, UserStoreMiddleware

server = Flask(__name__)
server.config.from_prefixed_env()
stores = UserStoreMiddleware(server)


def answer(**more: Any) -> dict[str, Any]:
    return {"worker": os.getpid(), **more}


@server.get("/")
def index() -> dict[str, Any]:
    """Every worker answers it, whatever the state of the store."""
    return answer()


@server.get("/health")
def health() -> dict[str, Any]:
    return answer(health=stores.health().as_dict())


@server.get("/values")
def values() -> dict[str, Any]:
    session = hashlib.sha256(g.user_store.session_id.encode()).hexdigest()
    return answer(session=session, values=g.user_store.copy())


@server.get("/values/<key>")
def get(key: str) -> dict[str, Any]:
    return answer(value=g.user_store.get(key))


@server.put("/values/<key>")
def put(key: str) -> dict[str, Any]:
    g.user_store[key] = request.get_json()
    return answer()


@server.delete("/values/<key>")
def delete(key: str) -> dict[str, Any]:
    del g.user_store[key]
    return answer()


@server.post("/increment")
def increment() -> dict[str, Any]:
    return answer(n=g.user_store.increment("n"))


@server.put("/pair")
def pair() -> dict[str, Any]:
    """Store one value under two keys at once."""
    g.user_store.update(left=request.get_json(), right=request.get_json())
    return answer()


@server.post("/hold")
def hold() -> dict[str, Any]:
    """Write, wait inside the transaction until there is a file, and write again."""
    with g.user_store.transaction():
        g.user_store["left"] = "held"
        while not Path(request.get_json()).exists():
            time.sleep(0.01)
        g.user_store["right"] = "held"
    return answer()


@server.post("/destroy")
def destroy() -> dict[str, Any]:
    g.user_store.destroy()
    return answer()


@server.post("/purge")
def purge() -> dict[str, Any]:
    return answer(removed=stores.purge())


@server.errorhandler(UserStoreError)
def failed(error: UserStoreError) -> tuple[dict[str, Any], int]:
    status = 409 if isinstance(error, SessionEnded) else 503
    return answer(error=type(error).__name__, message=str(error)), status
