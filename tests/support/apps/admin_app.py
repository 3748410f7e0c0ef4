"""A Dash app with an admin page, whose visitors can be made by the hundred."""

import os
from typing import Any

from dash import Dash, html
from flask import Flask, g, session

from flask_dash_store import UserStoreAdmin, UserStoreMiddleware

app = Dash(__name__)
server: Flask = app.server
server.config.from_prefixed_env()
app.layout = html.P("The app itself", id="own")
stores = UserStoreMiddleware(app, flask_session=True, ttl=3600)
UserStoreAdmin(
    app, allow=lambda: session.get("is_operator") is True, show_values=True, backups=os.environ["TEST_FOLDER"]
)


@server.get("/become-operator")
def become_operator() -> str:
    session["is_operator"] = True
    return "An operator"


@server.post("/fill/<int:number>")
def fill(number: int) -> str:
    """Sessions of visitors who are not there, each with a few keys."""
    for each in range(number):
        with server.test_client() as client:
            client.post(f"/keep/{each}")
    return ""


@server.post("/keep/<int:number>")
def keep(number: int) -> str:
    g.user_store["cart"] = list(range(number + 1))
    g.user_store["note"] = "n" * 100
    return ""


@server.post("/user")
def user() -> dict[str, Any]:
    name = '<img src=x onerror="window.stolen=1">'
    stores.for_user(name)[name.replace("/", "")] = name
    return {}
