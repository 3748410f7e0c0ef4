"""Background callbacks: their jobs find the visitor's store, and no visitor is given another's result.

Dash keeps a result under a hash of the callback and its arguments, until it is fetched or, with ``cache_by``, for
longer. So of two visitors who start the same callback at once, one is given the other's result, and one gets none. And
it hands the request's cookies to the job, by way of the broker.

All of that passes through two methods of the callback's manager. They are extended when it is used for the first time,
whenever it was made, which a hook of Dash tells.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cache
from hashlib import sha256
from typing import Any

from dash import hooks
from dash.background_callback.managers import BaseBackgroundCallbackManager

from ..errors import OutsideCookiePath
from ..proxy import find_store
from ..store.internal import context_with, results_name
from .jobs import NAMESPACE, extension_with, open_ticket, ticket_for


@cache
def install() -> None:
    """Extend each manager before a callback of this process uses it."""
    hooks.custom_data(NAMESPACE)(_extend_manager)


def _extend_manager(context: Mapping[str, Any]) -> None:
    manager = context.get("background_callback_manager")
    kind: type = type(manager)
    if issubclass(kind, BaseBackgroundCallbackManager) and not issubclass(kind, _ManagerOfVisitors):
        manager.__class__ = _extended(kind)


@cache
def _extended(kind: type) -> type:
    return type(kind.__name__, (_ManagerOfVisitors, kind), {})


class _ManagerOfVisitors(BaseBackgroundCallbackManager):
    """A manager that knows whose the jobs are."""

    def build_cache_key(self, fn: Callable[..., Any], args: Any, cache_args_to_ignore: Any, triggered: Any) -> str:
        key: str = super().build_cache_key(fn, args, cache_args_to_ignore, triggered)  # type: ignore[no-untyped-call]
        store = find_store()
        extension = None if store is None else extension_with(store)
        if store is None or extension is None or extension.settings.background_results == "shared":
            return key
        # Without a cache nothing need be found again. So no tab, and no later click, is given the result of another.
        whose = secrets.token_hex() if self.cache_by is None else results_name(store)
        return sha256(f"{key} {whose}".encode()).hexdigest()

    def call_job_fn(self, key: str, job_fn: Callable[..., Any], args: Any, context: Any) -> Any:
        with _job_of_visitor(context) as of_visitor:
            return super().call_job_fn(key, job_fn, args, of_visitor)  # type: ignore[no-untyped-call]


@contextmanager
def _job_of_visitor(context: Any) -> Iterator[Any]:
    """In this block, which starts a job, what the job is to be given as a callback's context."""
    store = find_store()
    extension = None if store is None else extension_with(store)
    if store is None or extension is None:
        yield context
        return
    context = _without_cookie(copy(context), extension.cookie_attributes.name)
    try:
        ticket = ticket_for(store)
    except OutsideCookiePath:  # The callback need not use the store, and could not.
        yield context
        return
    context["custom_data"] = copy(context.get("custom_data", {}))
    context["custom_data"][NAMESPACE] = ticket
    with context_with(open_ticket(ticket)):
        yield context


def _without_cookie(context: Any, name: str) -> Any:
    """A callback's context without the session's cookie."""
    if "cookies" in context:
        context["cookies"] = {each: value for each, value in context["cookies"].items() if each != name}
    if "headers" in context:
        context["headers"] = {
            header: _other_cookies(value, name) if header.lower() == "cookie" else value
            for header, value in context["headers"].items()
        }
    return context


def _other_cookies(header: str, name: str) -> str:
    pairs = (pair.strip() for pair in header.split(";"))
    return "; ".join(pair for pair in pairs if pair.partition("=")[0].strip() != name)
