"""The visitor's store in the job of a background callback, in any process.

The request that starts a job gives it a *ticket*: the app's name and a job handle. The job finds it in its callback
context, which every manager passes on, or has inherited the store by a fork. This module does not import Dash: a
process that has not loaded Dash runs no such job.
"""

from __future__ import annotations

import sys
from pathlib import Path
from weakref import WeakValueDictionary

from ..apps.adapter import Extension, Opened
from ..errors import ConfigurationError, InvalidKey
from ..store.internal import app_of, current_store
from ..store.user_store import UserStore

CHANGED_ROUTE = "_user-store/changed"  # As in changed.js. It is here because changed.py imports Dash.

# The key of the ticket in callback_context.custom_data.
NAMESPACE = "flask_dash_store"


_extensions: WeakValueDictionary[str, Extension] = WeakValueDictionary()
"""The extensions of this process, by the names of their apps."""


def register(extension: Extension, import_name: str) -> str:
    """Let jobs of this process find an app's extension.

    :param import_name: the app's, as for Flask
    :returns: the app's name, unique in this process, and the same in all processes that build their apps in one order
    """
    main = getattr(sys.modules.get(import_name), "__file__", None)
    # The parent's "__main__" is "__mp_main__" in a spawned process, and a worker imports it by its file's name.
    base = Path(main).stem if main and import_name in ("__main__", "__mp_main__") else import_name
    name, number = base, 1
    while name in _extensions:
        number += 1
        name = f"{base}#{number}"
    _extensions[name] = extension
    return name


def extension_with(store: UserStore) -> Opened | None:
    """The opened extension of the app that a store belongs to; None if the app has been garbage-collected."""
    extension = _extensions.get(app_of(store))
    return None if extension is None else extension.open()


def open_ticket(ticket: str) -> UserStore:
    """The store of a ticket from this process."""
    name, _, handle = ticket.partition(" ")
    return _extensions[name].open().open_store(handle)


def ticket_for(store: UserStore) -> str:
    """A ticket for a job that the current request starts. Starting a job counts as a use of the session.

    :raises SessionEnded: if the session has ended
    :raises OutsideCookiePath: if the browser never sends the session's cookie to this path
    """
    handle = store.job_handle()
    _ = NAMESPACE in store  # A read counts as a use; making a handle does not.
    return f"{app_of(store)} {handle}"


def find_job() -> UserStore | None:
    """The store of the job that this process runs for another one. From now on it is the current store.

    :returns: None if this process runs no such job
    :raises ConfigurationError: if the process cannot open the store
    """
    ticket = _ticket_of_context()
    if ticket is None:
        return None
    store = _open_elsewhere(ticket)
    current_store.set(store)
    return store


def is_poll(path: str, query: str) -> bool:
    """Whether an open page sends this request by itself, again and again.

    It polls for the progress or result of a background callback, or for what has changed.
    """
    return ("cacheKey=" in query and path.endswith("/_dash-update-component")) or path.endswith(CHANGED_ROUTE)


def _ticket_of_context() -> str | None:
    dash = sys.modules.get("dash")
    if dash is None:
        return None
    try:
        custom_data = dash.callback_context.custom_data
    except (dash.exceptions.MissingCallbackContextException, LookupError):  # A new thread has no context at all.
        return None
    ticket: str | None = custom_data.get(NAMESPACE)
    return ticket


def _open_elsewhere(ticket: str) -> UserStore:
    """The store of a ticket from another process."""
    name, _, handle = ticket.partition(" ")
    opened = _extension_named(name).open()
    if opened.settings.is_in_memory:
        raise ConfigurationError(
            f"USER_STORE_URL (url=) is {opened.settings.url!r}, the memory of one process, but background callbacks "
            "run in other processes. Let it name a file, Redis or PostgreSQL."
        )
    try:
        return opened.open_store(handle)
    except InvalidKey:
        raise ConfigurationError(
            "The process that runs this background callback cannot open its visitor's store: its SECRET_KEY, or its "
            "USER_STORE_COOKIE_NAME (cookie_name=), differs from that of the process that serves the page. Give both "
            "the same, for example from one environment variable; SECRET_KEY_FALLBACKS can hold a former key."
        ) from None


def _extension_named(name: str) -> Extension:
    extension = _extensions.get(name)
    if extension is not None:
        return extension
    others = list(_extensions.values())
    if len(others) == 1:
        return others[0]
    raise ConfigurationError(
        f"The process that runs this background callback has not built the app {name!r}, so it does not know where its "
        "visitors' values are. Call UserStoreMiddleware(app) in a module that this process imports too: the one that "
        "a Celery worker is started with (celery --app), or the one that holds the callback, outside of functions and "
        "of `if __name__ == '__main__'`."
        + (
            f" It has built {', '.join(sorted(_extensions))}; their names have to be the same in both."
            if others
            else ""
        )
    )
