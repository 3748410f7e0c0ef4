"""A Dash app on FastAPI whose page saves and shows by callbacks over a websocket, and has views that log in and out."""

from __future__ import annotations

import os
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html

from flask_dash_store import Changed, UserStoreMiddleware, is_available, tab_store, user_store


def make() -> Any:
    app = Dash(__name__, backend="fastapi", websocket_callbacks=True)
    app.server.secret_key = os.environ["SECRET"]
    UserStoreMiddleware(app, url=os.environ["URL"])
    app.layout = layout
    app.callback(Output("saved", "children"), Input("save", "n_clicks"), State("note", "value"))(save)
    app.callback(Output("name", "children"), Changed("name"))(show_name)
    app.callback(Output("user", "children"), Input("ask", "n_clicks"))(show_user)
    app.server.get("/login/{user}")(log_in)
    return app.server


def layout() -> html.Div:
    note = tab_store.get("note", "") if is_available() else ""
    return html.Div(
        [
            dcc.Input(id="note", value=note),
            html.Button("save", id="save"),
            html.Div(id="saved"),
            html.Div(id="name"),
            html.Button("ask", id="ask"),
            html.Div(id="user"),
        ]
    )


def save(clicks: int | None, note: str) -> str:
    if clicks:
        tab_store["note"] = note
        user_store["name"] = f"saved as {note}"
    how = "a websocket" if ctx.websocket else "HTTP"
    return f"{clicks or 0} by {how}: {tab_store.get('note')}, {len(tab_store)} here, of {user_store.get('user')}"


def show_name(_: Any) -> str:
    return str(user_store.get("name"))


def show_user(_: Any) -> str:
    return str(user_store.get("user"))


def log_in(user: str) -> str:
    user_store.regenerate(user)
    user_store["user"] = user
    return "logged in"
