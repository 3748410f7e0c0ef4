"""Keeps a visitor's data out of what Dash prepares for all of them.

With the first request, Dash calls the layout function of every page, and embeds what they return in the index page
that all visitors get (``validation_layout``). A layout that shows what its visitor has stored would show the first
visitor's data to all. So while Dash prepares itself, the store is an empty one that belongs to no visitor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from flask import Flask, request

from ..user_store import UserStore
from ..wsgi import ENVIRON_KEY

StoreFactory = Callable[[], UserStore]

_one_at_a_time = threading.RLock()


def has_dash(app: Flask) -> bool:
    """Whether a Dash app is on this server, whichever of the two the middleware was given."""
    return any(rule.rule.endswith("/_dash-layout") for rule in app.url_map.iter_rules())


def hide_store_from_dash_setup(app: Flask, empty_store: StoreFactory) -> None:
    """Let Dash's own ``before_request`` functions see an empty store that no browser has.

    :param empty_store: makes such a store
    """
    for functions in app.before_request_funcs.values():
        functions[:] = [_hidden(each, empty_store) if _is_dash_own(each) else each for each in functions]


def _is_dash_own(function: Callable[..., Any]) -> bool:
    return getattr(function, "__module__", None) == "dash.dash" and not hasattr(function, "__wrapped__")


def _hidden(function: Callable[..., Any], empty_store: StoreFactory) -> Callable[..., Any]:
    if iscoroutinefunction(function):

        @wraps(function)
        async def prepare_async() -> Any:
            with _one_at_a_time, _Hidden(empty_store()):
                return await function()

        return prepare_async

    @wraps(function)
    def prepare() -> Any:
        with _one_at_a_time, _Hidden(empty_store()):
            return function()

    return prepare


class _Hidden:
    def __init__(self, store: UserStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._visitor = request.environ.get(ENVIRON_KEY)
        request.environ[ENVIRON_KEY] = self._store

    def __exit__(self, *_: object) -> None:
        request.environ[ENVIRON_KEY] = self._visitor
