"""Views and a Dash callback in which each client writes its own tag, and is answered with all that it has stored.

Between writing and reading each gives way to others. With ``TAGGED_APP_ASYNC`` set, half of it is async.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from dash import Dash, Input, Output, dcc, html
from flask import Flask, g, request

from flask_dash_store import UserStoreMiddleware, user_store

USE_ASYNC = bool(os.environ.get("TAGGED_APP_ASYNC"))
KEYS = 5
TAG_LENGTH = 10
REPEATS = 15_000  # so that it lies in a file of its own

app = Dash(__name__, use_async=USE_ASYNC)
server: Flask = app.server
server.config.from_prefixed_env()
UserStoreMiddleware(app)
app.layout = html.Div([dcc.Input(id="tag"), dcc.Store(id="seen")])


def write(tag: str, count: int) -> None:
    g.user_store[f"key-{count % KEYS}"] = [tag, count]
    if count % 5 == 0:
        g.user_store.increment("fifths")
    if count % 20 == 0:
        g.user_store["large"] = tag * REPEATS


def seen() -> dict[str, Any]:
    """All that is stored, by ``g`` and by the proxy; of the large value what it repeats, and how often."""
    values = g.user_store.copy()
    large = values.pop("large", "")
    tag = large[:TAG_LENGTH]
    return {"values": values, "keys": sorted(user_store.keys() - {"large"}), "large": [tag, large.count(tag)]}


@server.post("/view")
def view() -> dict[str, Any]:
    write(**request.get_json())
    time.sleep(0)
    return seen()


@server.post("/async")
async def async_view() -> dict[str, Any]:
    write(**request.get_json())
    await asyncio.sleep(0)
    return seen()


def callback(sent: dict[str, Any]) -> dict[str, Any]:
    write(**sent)
    time.sleep(0)
    return seen()


async def async_callback(sent: dict[str, Any]) -> dict[str, Any]:
    write(**sent)
    await asyncio.sleep(0)
    return seen()


app.callback(Output("seen", "data"), Input("tag", "value"))(async_callback if USE_ASYNC else callback)
