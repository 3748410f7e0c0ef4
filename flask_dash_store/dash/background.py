"""Background callbacks: their jobs find the visitor's store, and no visitor gets another visitor's result.

Dash keeps a result under a hash of the callback and its arguments until it is fetched, or for longer with ``cache_by``.
So if two visitors start the same callback at once, one gets the other's result, and the other gets none. Dash also
passes the request's cookies to the job, through the broker.

Both happen in two methods of the callback's manager. This module overrides them. A hook of Dash calls it before each
callback, so it extends a manager on first use, no matter when the app made it.
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
    """Extend each manager of this process on first use."""
    hooks.custom_data(NAMESPACE)(_extend_manager)


def _extend_manager(context: Mapping[str, Any]) -> None:
    manager = context.get("background_callback_manager")
    cls: type = type(manager)
    if issubclass(cls, BaseBackgroundCallbackManager) and not issubclass(cls, _ManagerWithStore):
        manager.__class__ = _extended(cls)


@cache
def _extended(cls: type) -> type:
    return type(cls.__name__, (_ManagerWithStore, cls), {})


class _ManagerWithStore(BaseBackgroundCallbackManager):
    """A manager whose jobs find the store of the visitor who started them."""

    def build_cache_key(self, fn: Callable[..., Any], args: Any, cache_args_to_ignore: Any, triggered: Any) -> str:
        key: str = super().build_cache_key(fn, args, cache_args_to_ignore, triggered)  # type: ignore[no-untyped-call]
        store = find_store()
        extension = None if store is None else extension_with(store)
        if store is None or extension is None or extension.settings.background_results == "shared":
            return key
        # Without cache_by, no result has to be found again: each click gets its own, in each tab.
        whose = secrets.token_hex() if self.cache_by is None else results_name(store)
        return sha256(f"{key} {whose}".encode()).hexdigest()

    def call_job_fn(self, key: str, job_fn: Callable[..., Any], args: Any, context: Any) -> Any:
        with _context_of_job(context) as context_of_job:
            return super().call_job_fn(key, job_fn, args, context_of_job)  # type: ignore[no-untyped-call]


@contextmanager
def _context_of_job(context: Any) -> Iterator[Any]:
    """A block in which a job can be started. Gives the callback context for the job."""
    store = find_store()
    extension = None if store is None else extension_with(store)
    if store is None or extension is None:
        yield context
        return
    context = _without_cookie(copy(context), extension.cookie_attributes.name)
    try:
        ticket = ticket_for(store)
    except OutsideCookiePath:  # The callback cannot use the store, and may not need it.
        yield context
        return
    context["custom_data"] = copy(context.get("custom_data", {}))
    context["custom_data"][NAMESPACE] = ticket
    with context_with(open_ticket(ticket)):
        yield context


def _without_cookie(context: Any, name: str) -> Any:
    """A callback context without the session's cookie."""
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
