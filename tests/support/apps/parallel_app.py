"""A Dash page whose load fires eight callbacks in parallel, each of which writes a key of its own.

The tests know each user by a cookie ``tester``, which this package does not look at.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from typing import Any

from dash import Dash, Input, Output, State, ctx, html

from flask_dash_store import UserStoreMiddleware, is_available, user_store

KEYS = [f"key-{number}" for number in range(8)]


def make_server(use_async: bool = False) -> Any:
    app = Dash(__name__, use_async=use_async)
    app.server.config.from_prefixed_env()
    return install(app, use_async)


def fastapi() -> Any:
    return on_asgi("fastapi", use_async=False)


def quart() -> Any:
    return on_asgi("quart", use_async=True)


def on_asgi(backend: str, use_async: bool) -> Any:
    app = Dash(__name__, backend=backend, use_async=use_async)
    app.server.secret_key = os.environ["FLASK_SECRET_KEY"]
    return install(app, use_async, url=os.environ["FLASK_USER_STORE_URL"])


def install(app: Dash, use_async: bool, **options: Any) -> Any:
    UserStoreMiddleware(app, **options)
    app.layout = layout
    for key in KEYS:
        app.callback(Output(key, "children"), Input("load", "children"))(writer_of(key, use_async))
    app.callback(Output("report", "children"), [Input(key, "children") for key in KEYS], State("load", "children"))(
        report
    )
    return app.server


def layout() -> html.Div:
    if is_available():
        user_store.clear()
    load = html.Div(secrets.token_hex(8), id="load")
    return html.Div([load, *(html.Div(id=key) for key in KEYS), html.Pre(id="report")])


def writer_of(key: str, use_async: bool) -> Callable[[str], Any]:
    def write(load: str) -> str:
        user_store[key] = f"{ctx.cookies.get('tester', '')} {load}"
        return key

    async def write_async(load: str) -> str:
        return write(load)

    return write_async if use_async else write


def report(*_: str) -> str:
    session = hashlib.sha256(str(user_store.session_id).encode()).hexdigest()
    return json.dumps({"session": session, "values": user_store.copy()})
