"""A Dash app with websocket callbacks on FastAPI or Quart, and views that log in and out, for several workers."""

from __future__ import annotations

import os
from typing import Any

from dash import Dash, Input, Output, State, hooks, html

from flask_dash_store import OutsideRequest, ResponseStarted, UserStoreMiddleware, tab_store, user_store

CALLBACKS = ("write", "read", "read-async", "login", "tab", "tab-async")


def fastapi() -> Any:
    return make_server("fastapi", "/write/{key}")


def quart() -> Any:
    return make_server("quart", "/write/<key>")


def make_server(backend: str, path_of_key: str) -> Any:
    app = Dash(__name__, backend=backend, websocket_callbacks=True)
    app.server.secret_key = os.environ["SECRET"]
    UserStoreMiddleware(app, url=os.environ["URL"])
    app.layout = html.Div([html.Div(id=name) for name in ("in", *CALLBACKS)])
    for name, callback in zip(CALLBACKS, (write, read, read_async, log_in, note, note_async), strict=True):
        app.callback(Output(name, "children"), Input("in", "children"), State("in", "id"))(callback)
    for path, view in (("/login", log_in_over_http), ("/logout", log_out), ("/values", values)):
        app.server.get(path)(view)
    app.server.get(path_of_key)(write_key)
    hooks.websocket_connect()(count_sockets)
    return app.server


def count_sockets(_: Any) -> None:
    user_store.increment("sockets")


def write(value: str, _: str) -> str:
    user_store["name"] = value
    return "written"


def read(*_: str) -> str:
    return str(user_store.get("name"))


async def read_async(*_: str) -> str:
    return str(user_store.get("name"))


def note(value: str, _: str) -> str:
    try:
        if value:
            tab_store["note"] = value
        return str(tab_store.get("note"))
    except OutsideRequest as error:
        return str(error)


async def note_async(value: str, _: str) -> str:
    return note(value, _)


def log_in(*_: str) -> str:
    try:
        user_store.regenerate("ada")
    except ResponseStarted as error:
        return str(error)
    return "logged in"


# The first of these is called on the event loop, and the others in threads.


async def write_key(key: str) -> dict[str, int]:
    user_store[key] = key
    return {"pid": os.getpid()}


def log_in_over_http() -> str:
    user_store.regenerate("ada")
    return "logged in"


def log_out() -> str:
    user_store.destroy()
    return "logged out"


def values() -> dict[str, Any]:
    return user_store.copy()
