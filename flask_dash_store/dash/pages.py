"""Keeps a visitor's data out of what Dash prepares for all visitors.

With the first request, Dash calls the layout function of every page and embeds the layouts in the index page that all
visitors get (``validation_layout``). A layout that shows its visitor's data would show the first visitor's data to all.
So while Dash prepares itself, the store is an empty one that belongs to no visitor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

Hide = Callable[[], AbstractContextManager[None]]

_one_at_a_time = threading.RLock()


def has_dash(paths: Iterable[str]) -> bool:
    """Whether the paths of a server include those of a Dash app."""
    return any(path.endswith("/_dash-layout") for path in paths)


def hide_store_from_dash_setup(functions: list[Callable[..., Any]], hide: Hide) -> None:
    """Give those of a server's ``before_request`` functions that are Dash's own an empty store.

    :param hide: makes a block in which the request has such a store
    """
    functions[:] = [_hidden(each, hide) if _is_dash_own(each) else each for each in functions]


def _is_dash_own(function: Callable[..., Any]) -> bool:
    return getattr(function, "__module__", None) == "dash.dash" and not hasattr(function, "__wrapped__")


def _hidden(function: Callable[..., Any], hide: Hide) -> Callable[..., Any]:
    if iscoroutinefunction(function):

        @wraps(function)
        async def prepare_async() -> Any:
            with _one_at_a_time, hide():
                return await function()

        return prepare_async

    @wraps(function)
    def prepare() -> Any:
        with _one_at_a_time, hide():
            return function()

    return prepare
