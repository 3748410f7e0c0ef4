"""A button in Dash's dev tools that lists what the visitor has stored: keys, sizes and expiries, but no values.

Dash 3.2 and later render the component that ``hooks.devtool`` names in their dev tools. It is in devtools.js, which
calls the route below. If the dev tools are off, there is neither.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.sansio.request import Request

from ..errors import UserStoreError
from ..http.asgi import App, Receive, Scope, Send, request_of
from ..http.same_origin import is_same_origin
from ..proxy import user_store
from ..store.user_store import UserStore

NAMESPACE = "flask_dash_store"
COMPONENT = "UserStoreDevtool"
ROUTE = "_user-store"

StoreOfRequest = Callable[[], UserStore]
Views = Iterable[tuple[str, Any]]
"""The views of a server, each with its path."""


def add_to_dev_tools(app: Flask, store: StoreOfRequest) -> None:
    """Add the button to those Dash apps of a server whose dev tools are on, before the server's first request.

    :param store: returns the store of the current request's visitor
    """

    def answer() -> tuple[Response, int]:
        content, status = _answer(store(), request, request.get_json(silent=True))
        response = jsonify(content)
        response.cache_control.no_store = True
        return response, status

    for path in _routes((rule.rule, app.view_functions[rule.endpoint]) for rule in app.url_map.iter_rules()):
        app.add_url_rule(path, path, answer, methods=["POST"])


def with_dev_tools(app: App, views: Views) -> App:
    """The same for an ASGI app: returns the app to serve instead.

    :param views: the server's views
    """
    paths = set(_routes(views))
    if not paths:
        return app

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        is_asked = scope["type"] == "http" and scope["method"] == "POST" and request_of(scope).path in paths
        await (_serve if is_asked else app)(scope, receive, send)

    return serve


async def _serve(scope: Scope, receive: Receive, send: Send) -> None:
    request, asked = request_of(scope), None
    body = await _body(receive)
    if request.is_json:
        with suppress(ValueError):
            asked = json.loads(body)
    content, status = await asyncio.to_thread(lambda: _answer(user_store, request, asked))
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


async def _body(receive: Receive) -> bytes:
    body, is_complete = b"", False
    while not is_complete:
        message = await receive()
        body += message.get("body", b"")
        is_complete = not message.get("more_body")
    return body


def _routes(views: Views) -> Iterator[str]:
    """Add the button to each Dash app of a server whose dev tools are on, and give the route that it needs."""
    for path, view in views:
        if path.endswith("/_dash-layout"):
            dash_app = view.__self__
            if dash_app._dev_tools.ui and _add_component():  # noqa: SLF001
                yield dash_app.config.routes_pathname_prefix + ROUTE


def _add_component() -> bool:
    """Add the component, once for all apps of the process. Returns whether this version of Dash supports it."""
    from dash import hooks

    if not hasattr(hooks, "devtool"):
        return False
    script: Any = {"namespace": NAMESPACE, "relative_package_path": "dash/devtools.js"}
    if script not in hooks._js_dist:  # noqa: SLF001
        hooks.script([script])
        hooks.devtool(NAMESPACE, COMPONENT)
    return True


def _answer(store: UserStore, request: Request, asked: Any) -> tuple[dict[str, Any], int]:
    """Do what the page asks for, and list what is stored. Listing does not count as a use of the session.

    :param asked: the JSON of the request's body; None if it is not JSON
    """
    if not is_same_origin(request):
        return {"error": "Only a page of the app itself may ask for this."}, 403
    if not isinstance(asked, dict):
        return {"error": "The body must be a JSON object."}, 400
    try:
        if asked.get("do") == "delete":
            key: Any = asked.get("key")
            store.pop(key, None)
        elif asked.get("do") == "clear":
            store.clear()
        described = [
            {
                "key": value.key,
                "nbytes": value.nbytes,
                "kind": value.kind,
                "expires_at": None if value.expires_at is None else value.expires_at.isoformat(),
            }
            for value in store.describe()
        ]
    except UserStoreError as error:
        return {"error": str(error)}, 500
    return {"values": described}, 200
