"""Views as a caching proxy sees them: some use the store, some may be kept by any cache, one is careless."""

from __future__ import annotations

import itertools
import secrets

from dash import Dash, html
from flask import Flask, Response, g, request

from flask_dash_store import UserStoreMiddleware

app = Dash(__name__)
server: Flask = app.server
server.config.from_prefixed_env()
UserStoreMiddleware(app)
app.layout = html.Div("the same for all")

served = itertools.count()


@server.get("/untouched")
def untouched() -> str:
    return "the same for all"


@server.get("/write/<name>")
def write(name: str) -> str:
    g.user_store["name"] = name
    return name


@server.get("/read")
def read() -> str:
    return str(g.user_store.get("name"))


@server.get("/has")
def has() -> str:
    return str("name" in g.user_store)


@server.get("/read-for-an-hour")
def read_for_an_hour() -> Response:
    return Response(read(), headers={"Cache-Control": "max-age=3600"})


@server.get("/public")
def public() -> Response:
    return Response(f"{secrets.token_hex(8)}", headers={"Cache-Control": "public, max-age=3600"})


@server.get("/careless")
def careless() -> Response:
    """A cookie that this app sets by itself, as Flask did before CVE-2023-30861: without a word to caches."""
    name = request.cookies.get("careless") or secrets.token_hex(8)
    response = Response(name, headers={"Cache-Control": "max-age=3600"})
    response.set_cookie("careless", name)
    return response
