"""UserStoreMiddleware: what an app installs, and how its code comes to the visitor's store."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, current_app, has_app_context

from .cli import user_store
from .errors import ConfigurationError
from .expiry import Clock
from .extension import EXTENSION, Extension
from .settings import Settings
from .user_store import UserStore

if TYPE_CHECKING:
    from dash import Dash


class UserStoreMiddleware:
    """Gives every visitor of a Flask or Dash app a store of its own, ``g.user_store``.

    ``UserStoreMiddleware(app)`` installs it at once; ``UserStoreMiddleware()`` and ``init_app(app)`` suit app
    factories, and one instance may serve several apps. It wraps ``app.wsgi_app`` in place, so ``app.run()`` and
    every WSGI server run it.

    :param app: a Flask app, a Dash app, or None
    :param clock: gives seconds since the epoch; for tests
    :param options: settings, by the names of the config keys in lower case without ``USER_STORE_``: ``url``, ``ttl``,
        ``lifetime``, ``max_bytes``, ``max_value_bytes``, ``max_keys``, ``max_key_length``, ``timeout``, ``codec``,
        ``synchronous``, ``counts_as_use``, ``cookie_name``, ``cookie_path``, ``cookie_domain``, ``cookie_samesite``,
        ``cookie_secure``, ``cookie_partitioned``. They win over the app's config.
    :raises ConfigurationError: as :meth:`init_app` does
    """

    def __init__(self, app: Flask | Dash | None = None, *, clock: Clock = time.time, **options: Any) -> None:
        self._clock = clock
        self._options = options
        self._installed: list[Extension] = []
        if app is not None:
            self._install(app, stacklevel=3)

    def init_app(self, app: Flask | Dash) -> None:
        """Install the middleware on an app whose SECRET_KEY is set.

        :raises ConfigurationError: when the app is neither Flask nor Dash on Flask, has a store already or has no
            SECRET_KEY, or when a setting is unknown or cannot be used
        :raises StorageError: when the storage cannot be opened
        """
        self._install(app, stacklevel=3)

    def _install(self, app: Flask | Dash, stacklevel: int) -> None:
        server, cookie_path, home = _server_and_paths(app)
        if EXTENSION in server.extensions:
            raise ConfigurationError(
                f"The app {server.name!r} has a user store already; install UserStoreMiddleware on it once."
            )
        settings = Settings.of(server.config, self._options)
        settings.warn_of_weak_secret(stacklevel + 1)
        extension = Extension(server, settings, cookie_path, home, self._clock)
        server.extensions[EXTENSION] = extension
        server.cli.add_command(user_store)
        self._installed.append(extension)

    def for_user(self, user_id: str | int, ttl: float | timedelta | None = None) -> UserStore:
        """The store of a user id, whichever browser the user comes with, in or out of a request.

        :param user_id: at most 512 characters; an int is the same user as its decimal text
        :param ttl: idle seconds, or a timedelta, after which the values are gone; None keeps them until they are
            deleted
        :raises InvalidKey: when the id is too long or holds a lone surrogate
        :raises InvalidKeyType: when it is neither str nor int
        """
        return self._extension().for_user(user_id, ttl)

    def open(self, session_id: str) -> UserStore:
        """A session's store out of its request, by ``g.user_store.session_id``: for a thread, a task, a job.

        What is done with it does not count as use: it moves no expiry.

        :raises InvalidKey: when the text is no session id
        """
        return self._extension().open(session_id)

    def purge(self) -> int:
        """Remove all that has expired. It is done after responses too, a little at a time.

        :returns: how many sessions, and users, were removed
        :raises StorageError: when the storage fails
        """
        return self._extension().wsgi.maintenance.run_to_the_end()

    def _extension(self) -> Extension:
        if has_app_context():
            current = current_app.extensions.get(EXTENSION)
            if current in self._installed:
                return cast(Extension, current)
        if len(self._installed) == 1:
            return self._installed[0]
        raise ConfigurationError(
            f"This UserStoreMiddleware serves {len(self._installed)} apps, so it cannot tell which one is meant; "
            + ("call it inside `with app.app_context():`." if self._installed else "call init_app(app) first.")
        )


def _server_and_paths(app: object) -> tuple[Flask, str, str]:
    """The Flask app, the path under which the browser sees it, and what of that path the app itself sees."""
    if isinstance(app, Flask):
        return app, app.session_interface.get_cookie_path(app), "/"
    server = getattr(app, "server", None)
    if isinstance(server, Flask):
        config = app.config  # type: ignore[attr-defined]
        return server, config.requests_pathname_prefix, config.routes_pathname_prefix
    raise ConfigurationError(
        f"UserStoreMiddleware wraps a Flask app, or a Dash app whose server is one, not {type(app).__name__}."
    )
