"""Keeps a visitor's data out of what Dash prepares for everybody.

With the first request, Dash calls the layout function of every page, and embeds what they return in the index page
that everybody gets (``validation_layout``). A layout that shows what its visitor has stored would show the first
visitor's data to all. So while Dash prepares itself, the visitor is nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from flask import Flask, g, request

from ..user_store import UserStore
from ..wsgi import ENVIRON_KEY

StoreFactory = Callable[[], UserStore]

_one_at_a_time = threading.RLock()


def hide_store_from_dash_setup(app: Flask, nobody: StoreFactory) -> None:
    """Let Dash's own ``before_request`` functions see an empty store that no browser has.

    :param nobody: makes such a store
    """
    for functions in app.before_request_funcs.values():
        functions[:] = [_hidden(function, nobody) if _is_dash_own(function) else function for function in functions]


def _is_dash_own(function: Callable[..., Any]) -> bool:
    return getattr(function, "__module__", None) == "dash.dash" and not hasattr(function, "__wrapped__")


def _hidden(function: Callable[..., Any], nobody: StoreFactory) -> Callable[..., Any]:
    if iscoroutinefunction(function):

        @wraps(function)
        async def prepare_async() -> Any:
            with _one_at_a_time, _Nobody(nobody()):
                return await function()

        return prepare_async

    @wraps(function)
    def prepare() -> Any:
        with _one_at_a_time, _Nobody(nobody()):
            return function()

    return prepare


class _Nobody:
    def __init__(self, store: UserStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._visitor = request.environ[ENVIRON_KEY]
        g.user_store = request.environ[ENVIRON_KEY] = self._store

    def __exit__(self, *_: object) -> None:
        g.user_store = request.environ[ENVIRON_KEY] = self._visitor
