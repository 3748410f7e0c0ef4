"""The plain views, and one that uses the store, waits until the test lets it go on, and uses it again."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from flask import g, request
from plain_app import answer, server

from flask_dash_store import UserStore

__all__ = ["server"]

TIMEOUT = 30

logging.basicConfig(level=logging.DEBUG)


def wait() -> None:
    """Tell the test that the view has come so far, and wait for its answer."""
    with socket.create_connection(("127.0.0.1", request.get_json()), timeout=TIMEOUT) as test:
        test.recv(1)


def change_in_a_transaction(store: UserStore) -> None:
    with store.transaction():
        store.clear()
        store["name"] = "late"


def edit(store: UserStore) -> None:
    with store.edit("name", []) as name:
        name.append("late")


USES: dict[str, Callable[[UserStore], Any]] = {
    "nothing": lambda store: None,
    "read": lambda store: store.copy(),
    "pop": lambda store: store.pop("name", None),
    "clear": lambda store: store.clear(),
    "destroy": lambda store: store.destroy(),
    "write": lambda store: store.update(name="late"),
    "write large": lambda store: store.update(name=b"late" * 100_000),
    "increment": lambda store: store.increment("count"),
    "setdefault": lambda store: store.setdefault("other", "late"),
    "edit": edit,
    "transaction": change_in_a_transaction,
    "regenerate": lambda store: store.regenerate(),
}


@server.post("/slow/<use>")
def slow(use: str) -> dict[str, Any]:
    g.user_store.copy()
    wait()
    USES[use](g.user_store)
    return answer(values=g.user_store.copy())


@server.post("/slow-transaction")
def slow_transaction() -> dict[str, Any]:
    with g.user_store.transaction():
        g.user_store["name"] = "late"
        wait()
    return answer()
