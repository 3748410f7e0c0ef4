"""A button in Dash's own dev tools that shows what the visitor has stored: keys, sizes and expiries, and no value.

Dash renders a component that is given to ``hooks.devtool`` in its dev tools (Dash 3.2 and later). It is in devtools.js,
which asks the route below. Where the dev tools are off there is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, Response, jsonify, request

from ..errors import UserStoreError
from ..store.user_store import UserStore

NAMESPACE = "flask_dash_store"
COMPONENT = "UserStoreDevtool"
ROUTE = "_user-store"

StoreOfRequest = Callable[[], UserStore]


def add_to_dev_tools(app: Flask, store: StoreOfRequest) -> None:
    """Add the button to those Dash apps of a server whose dev tools are on, before the server's first request.

    :param store: the store of the present request's visitor
    """
    for dash_app in _dash_apps(app):
        if dash_app._dev_tools.ui and _add_component():  # noqa: SLF001
            path = dash_app.config.routes_pathname_prefix + ROUTE
            app.add_url_rule(path, path, lambda: _answer(store()), methods=["POST"])


def _dash_apps(app: Flask) -> Iterator[Any]:
    for rule in app.url_map.iter_rules():
        if rule.rule.endswith("/_dash-layout"):
            serve_layout: Any = app.view_functions[rule.endpoint]
            yield serve_layout.__self__


def _add_component() -> bool:
    """Whether Dash takes one. Its hooks are those of all apps in the process, so one is enough."""
    from dash import hooks

    if not hasattr(hooks, "devtool"):
        return False
    script: Any = {"namespace": NAMESPACE, "relative_package_path": "dash/devtools.js"}
    if script not in hooks._js_dist:  # noqa: SLF001
        hooks.script([script])
        hooks.devtool(NAMESPACE, COMPONENT)
    return True


def _answer(store: UserStore) -> tuple[Response, int]:
    """Do what the page asks for, and describe what is stored then.

    To describe it is no use of the session.
    """
    if not _is_same_origin():
        return jsonify(error="Only the app's own page may ask for this."), 403
    asked = request.get_json(silent=True)
    if not isinstance(asked, dict):
        return jsonify(error="This takes a JSON object."), 400
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
        return jsonify(error=str(error)), 500
    response = jsonify(values=described)
    response.cache_control.no_store = True
    return response, 200


def _is_same_origin() -> bool:
    """Whether the app's own page asks. Browsers that do not trust the address say only the origin."""
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if fetch_site is not None:
        return fetch_site == "same-origin"
    return request.headers.get("Origin") == request.host_url.rstrip("/")
