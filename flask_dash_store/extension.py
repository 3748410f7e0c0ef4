"""The middleware as it runs on one app."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask, current_app, g, has_app_context, has_request_context, request

from .codec import CODECS, Codec
from .cookie import SessionCookie
from .dash.pages import hide_store_from_dash_setup
from .expiry import Access, Clock, ExpiryPolicy, seconds
from .mapping import Backend
from .owner import new_session_id, session_owner, user_owner
from .settings import Settings
from .storage import Storage, open_storage
from .trace import Trace
from .user_store import UserStore
from .wsgi import SessionMiddleware, current

EXTENSION = "user_store"


class Extension:
    """What UserStoreMiddleware has made of one app.

    :param cookie_path: where the browser sees the app, for a cookie that no setting gives a path
    :param home: the path, as the app sees it, under which the browser sends that cookie
    """

    def __init__(self, app: Flask, settings: Settings, cookie_path: str, home: str, clock: Clock) -> None:
        attributes = settings.cookie_attributes(cookie_path)
        self._app = app
        self._settings = settings
        self.storage = self.open_storage(settings.url)
        self.codec: Codec = CODECS[settings.codec](settings.secrets)
        self._backend = Backend(
            self.storage,
            self.codec,
            ExpiryPolicy(settings.ttl_seconds, clock),
            settings.max_key_length,
            settings.max_value_bytes,
        )
        self.wsgi = SessionMiddleware(
            app.wsgi_app,
            SessionCookie(attributes, settings.secrets, settings.lifetime_seconds, clock),
            self._backend,
            settings.lifetime_seconds,
            home if attributes.path == cookie_path else "/",
            self._attach,
            _within_request(settings),
        )
        app.wsgi_app = self.wsgi  # type: ignore[method-assign]
        self._make_globals = app.app_ctx_globals_class
        app.app_ctx_globals_class = self._make_globals_with_store  # type: ignore[assignment]
        self._is_first_request = True

    def open_storage(self, url: str, must_exist: bool = False) -> Storage:
        """The storage that a URL names, with this app's limits."""
        settings = self._settings
        return open_storage(
            url,
            folder=Path(self._app.instance_path),
            keep_ended=settings.lifetime_seconds,
            max_bytes=settings.max_bytes,
            max_keys=settings.max_keys,
            timeout=settings.timeout_seconds,
            synchronous=settings.synchronous,
            must_exist=must_exist,
        )

    def access_of_users(self) -> Access:
        """The present access, for a user whose values are kept until they are deleted."""
        return ExpiryPolicy(None, self._backend.expiry.clock).access()

    def _make_globals_with_store(self) -> Any:
        """Make a ``g`` that holds the visitor's store from its first access, before any signal or ``before_request``.

        A receiver of Flask's ``request_started`` would do so too, and cost each request ten times as much.
        """
        globals_ = self._make_globals()
        middleware, store = current.get() or (None, None)
        if middleware is self.wsgi:
            globals_.user_store = store
        return globals_

    def _attach(self, store: UserStore) -> Callable[[], None] | None:
        """Prepare a request. Returns what has to be done after it, if anything."""
        if self._is_first_request:
            hide_store_from_dash_setup(self._app, lambda: self.open(new_session_id()))
            self._is_first_request = False
        if has_app_context() and current_app == self._app:
            # An app context that is pushed already, as in many tests, is shared with the request, and so is its g.
            outer = g.get("user_store")
            g.user_store = store
            return partial(g.pop, "user_store", None) if outer is None else partial(setattr, g, "user_store", outer)
        return None

    def for_user(self, user_id: str | int, ttl: float | timedelta | None) -> UserStore:
        lifetime = ExpiryPolicy(None if ttl is None else seconds(ttl), self._backend.expiry.clock)
        return UserStore(replace(self._backend, lifetime=lifetime), user_owner(user_id), Trace())

    def open(self, session_id: str) -> UserStore:
        trace = Trace(session_id)
        trace.counts_as_use = lambda: False  # What a job does is no use by the visitor, so it keeps no session alive.
        return UserStore(self._backend, session_owner(session_id), trace)


def _within_request(settings: Settings) -> Callable[[], bool] | None:
    counts_as_use = settings.counts_as_use
    if counts_as_use is None:
        return None
    return lambda: not has_request_context() or bool(counts_as_use(request))
