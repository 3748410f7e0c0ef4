"""Plain views over the store, each of which says which worker has answered."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from flask import Flask, g, request

from flask_dash_store import SessionEnded, UserStoreMiddleware

server = Flask(__name__)
server.config.from_prefixed_env()
UserStoreMiddleware(server)


def answer(**more: Any) -> dict[str, Any]:
    return {"worker": os.getpid(), **more}


@server.get("/")
def index() -> dict[str, Any]:
    session = hashlib.sha256(g.user_store.session_id.encode()).hexdigest()
    return answer(session=session, values=g.user_store.copy())


@server.put("/<key>")
def put(key: str) -> dict[str, Any]:
    g.user_store[key] = request.get_json()
    return answer()


@server.post("/increment")
def increment() -> dict[str, Any]:
    return answer(n=g.user_store.increment("n"))


@server.post("/regenerate")
def regenerate() -> dict[str, Any]:
    g.user_store.regenerate()
    return answer()


@server.post("/destroy")
def destroy() -> dict[str, Any]:
    g.user_store.destroy()
    return answer()


@server.errorhandler(SessionEnded)
def ended(_: SessionEnded) -> tuple[dict[str, Any], int]:
    return answer(), 409
