"""UserStoreMiddleware: what an app installs, and how its code comes to the visitor's store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, current_app, g, has_app_context, has_request_context, request
from werkzeug.local import LocalProxy

from .codec import CODECS
from .cookie import SessionCookie
from .dash_setup import hide_store_from_dash_setup
from .errors import ConfigurationError, OutsideRequest
from .lifetime import Clock, Lifetime, seconds
from .mapping import Backend
from .owner import new_session_id, session_owner, user_owner
from .settings import Settings
from .storage import open_storage
from .trace import Trace
from .user_store import UserStore
from .wsgi import ENVIRON_KEY, SessionMiddleware, current

if TYPE_CHECKING:
    from dash import Dash

EXTENSION = "user_store"


class UserStoreMiddleware:
    """Gives every visitor of a Flask or Dash app a store of its own, ``g.user_store``.

    ``UserStoreMiddleware(app)`` installs it at once; ``UserStoreMiddleware()`` and ``init_app(app)`` suit app
    factories, and one instance may serve several apps. It wraps ``app.wsgi_app`` in place, so ``app.run()`` and
    every WSGI server run it.

    :param app: a Flask app, a Dash app, or None
    :param clock: gives seconds since the epoch; for tests
    :param options: settings, by the names of the config keys in lower case without ``USER_STORE_``: ``url``, ``ttl``,
        ``lifetime``, ``max_bytes``, ``max_value_bytes``, ``max_key_length``, ``timeout``, ``codec``, ``synchronous``,
        ``counts_as_use``, ``cookie_name``, ``cookie_path``, ``cookie_domain``, ``cookie_samesite``,
        ``cookie_secure``, ``cookie_partitioned``. They win over the app's config.
    :raises ConfigurationError: as :meth:`init_app` does
    """

    def __init__(self, app: Flask | Dash | None = None, *, clock: Clock = time.time, **options: Any) -> None:
        self._clock = clock
        self._options = options
        self._installed: list[Installation] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask | Dash) -> None:
        """Install the middleware on an app whose SECRET_KEY is set.

        :raises ConfigurationError: when the app is neither Flask nor Dash on Flask, has a store already or has no
            SECRET_KEY, or when a setting is unknown or cannot be used
        :raises StorageError: when the storage cannot be opened
        """
        server, path = _server_and_path(app)
        if EXTENSION in server.extensions:
            raise ConfigurationError(
                f"The app {server.name!r} has a user store already; install UserStoreMiddleware on it once."
            )
        settings = Settings.of(server.config, self._options)
        settings.warn_of_weak_secret()
        installation = Installation(server, settings, path, self._clock)
        server.extensions[EXTENSION] = installation
        self._installed.append(installation)

    def for_user(self, user_id: str | int, ttl: float | timedelta | None = None) -> UserStore:
        """The store of a user id, whichever browser the user comes with, in or out of a request.

        :param user_id: at most 512 characters; an int is the same user as its decimal text
        :param ttl: idle seconds, or a timedelta, after which the values are gone; None keeps them until they are
            deleted
        :raises InvalidKey: when the id is too long or holds a lone surrogate
        :raises InvalidKeyType: when it is neither str nor int
        """
        return self._installation().for_user(user_id, ttl)

    def open(self, session_id: str) -> UserStore:
        """A session's store out of its request, by ``g.user_store.session_id``: for a thread, a task, a job.

        :raises InvalidKey: when the text is no session id
        """
        return self._installation().open(session_id)

    def purge(self) -> int:
        """Remove all that has expired. It is done after responses too, a little at a time.

        :returns: how many sessions, and users, were removed
        :raises StorageError: when the storage fails
        """
        return self._installation().wsgi.housekeeping.run_to_the_end()

    def _installation(self) -> Installation:
        if has_app_context():
            current = current_app.extensions.get(EXTENSION)
            if current in self._installed:
                return cast(Installation, current)
        if len(self._installed) == 1:
            return self._installed[0]
        raise ConfigurationError(
            f"This UserStoreMiddleware serves {len(self._installed)} apps, so it cannot tell which one is meant; "
            + ("call it inside `with app.app_context():`." if self._installed else "call init_app(app) first.")
        )


class Installation:
    """The middleware as it runs on one app."""

    def __init__(self, app: Flask, settings: Settings, default_path: str, clock: Clock) -> None:
        attributes = settings.cookie_attributes(default_path)
        storage = open_storage(
            settings.url,
            folder=Path(app.instance_path),
            max_bytes=settings.max_bytes,
            timeout=settings.timeout_seconds,
            synchronous=settings.synchronous,
        )
        self._backend = Backend(
            storage,
            CODECS[settings.codec](settings.secrets),
            Lifetime(settings.ttl_seconds, clock),
            settings.max_key_length,
            settings.max_value_bytes,
        )
        self.wsgi = SessionMiddleware(
            app.wsgi_app,
            SessionCookie(attributes, settings.secrets, settings.lifetime_seconds, clock),
            self._backend,
            settings.lifetime_seconds,
            partial(_attach_to_pushed_g, app),
            _within_request(settings),
        )
        app.wsgi_app = self.wsgi  # type: ignore[method-assign]
        self._attach_to_g(app)

    def _attach_to_g(self, app: Flask) -> None:
        """Have ``g`` hold the visitor's store from its first moment, before any signal or ``before_request``."""
        # A receiver of request_started would do the same at ten times the cost, on each request.
        make_globals = app.app_ctx_globals_class
        is_first_request = True

        def make_globals_with_store() -> Any:
            nonlocal is_first_request
            globals_ = make_globals()
            middleware, store = current.get() or (None, None)
            if middleware is self.wsgi:
                globals_.user_store = store
                if is_first_request:
                    is_first_request = False
                    hide_store_from_dash_setup(app, lambda: self.open(new_session_id()))
            return globals_

        app.app_ctx_globals_class = make_globals_with_store  # type: ignore[assignment]

    def for_user(self, user_id: str | int, ttl: float | timedelta | None) -> UserStore:
        lifetime = Lifetime(None if ttl is None else seconds(ttl), self._backend.lifetime.clock)
        return UserStore(replace(self._backend, lifetime=lifetime), user_owner(user_id), Trace())

    def open(self, session_id: str) -> UserStore:
        return UserStore(self._backend, session_owner(session_id), Trace(session_id))


def _server_and_path(app: object) -> tuple[Flask, str]:
    """The Flask app, and the path under which the browser sees it."""
    if isinstance(app, Flask):
        return app, app.session_interface.get_cookie_path(app)
    server = getattr(app, "server", None)
    if isinstance(server, Flask):
        prefix = app.config.requests_pathname_prefix  # type: ignore[attr-defined]
        return server, prefix or server.session_interface.get_cookie_path(server)
    raise ConfigurationError(
        f"UserStoreMiddleware wraps a Flask app, or a Dash app whose server is one, not {type(app).__name__}."
    )


def _attach_to_pushed_g(app: Flask, store: UserStore) -> None:
    """Where an app context is pushed already, as in many tests, requests share its ``g``."""
    if has_app_context() and current_app == app:
        g.user_store = store


def _within_request(settings: Settings) -> Callable[[], bool] | None:
    counts_as_use = settings.counts_as_use
    if counts_as_use is None:
        return None
    return lambda: not has_request_context() or bool(counts_as_use(request))


def _current() -> UserStore:
    store = request.environ.get(ENVIRON_KEY) if has_request_context() else None
    if store is None:
        raise OutsideRequest(
            "There is no visitor here, so there is no user store. It exists while a request is handled by an app with "
            "UserStoreMiddleware. Dash calls a layout function once without a request, when it is assigned: ask "
            "flask_dash_store.is_available() there. Elsewhere use middleware.for_user(user_id) or "
            "middleware.open(session_id)."
        )
    return cast(UserStore, store)


def is_available() -> bool:
    """Whether there is a visitor, and so a :data:`user_store`, here."""
    return has_request_context() and ENVIRON_KEY in request.environ


user_store = cast(UserStore, LocalProxy(_current))
"""The present visitor's store, the same as ``g.user_store``, importable anywhere.

:raises OutsideRequest: when it is used where there is no visitor
"""
