"""UserStoreMiddleware, which an app installs to give each visitor a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from flask import Flask, current_app, has_app_context, has_request_context, request

from .apps.adapter import AppAdapter
from .apps.asgi_app import asgi_app
from .apps.flask_app import FlaskApp
from .errors import ConfigurationError
from .expiry import Clock, wall_clock
from .extension import Extension, OpenedExtension, opened_in_test
from .health import DEFAULT_TIMEOUT, Health
from .http.asgi import App as ASGIApp
from .http.asgi import Receive, Scope, Send
from .http.wsgi import OPENED_KEY
from .settings import UNSET, Settings, Unset
from .storage.base import Synchronous
from .store.user_store import UserSession, UserStore

if TYPE_CHECKING:
    from dash import Dash


class UserStoreMiddleware:
    """Gives every visitor of a Flask or Dash app their own store: ``user_store``, and on Flask also ``g.user_store``.

    ``UserStoreMiddleware(app)`` installs it at once. For app factories, call ``UserStoreMiddleware()`` first and
    ``init_app(app)`` later; one instance can serve several apps. It wraps ``app.wsgi_app`` in place, so ``app.run()``
    and every WSGI server use it. ``app.extensions["user_store"]`` is the instance.

    A Dash app may also run on Quart or FastAPI. Quart, FastAPI and Starlette apps are changed in place, too. Any other
    ASGI app is wrapped: serve the instance instead of the app. ``app.add_middleware(UserStoreMiddleware,
    secret_key=...)`` works as well.

    Each option except ``secret_key``, ``secret_key_fallbacks`` and ``clock`` is also a config key: in upper case, with
    the prefix ``USER_STORE_``. If both are given, the option wins. The config is read with the first request. By then,
    SECRET_KEY must be set; SECRET_KEY_FALLBACKS may hold former keys.

    :param app: a Flask, Quart, FastAPI or Starlette app, a Dash app on one of these, any other ASGI app, or None
    :param secret_key: signs cookies and values, for an app that has no config. By default (None), the app's attribute
        ``secret_key`` does.
    :param secret_key_fallbacks: former secret keys, which still verify what they have signed
    :param url: where the values are stored. ``sqlite:///name`` is a file in the app's instance folder (if it has none,
        in the folder ``instance`` of the working directory), ``sqlite:////absolute/path`` a file anywhere. Other
        storages are ``sqlite://:memory:``, ``memory://``, ``redis://…`` and ``postgresql://…``. By default
        ``sqlite:///user_store.sqlite``.
    :param ttl: idle time, in seconds or as a timedelta, after which a session's values are deleted; each use restarts
        it. By default a day.
    :param lifetime: age, in seconds or as a timedelta, at which a session ends, however active it is. By default 31
        days.
    :param tab_ttl: idle time, in seconds or as a timedelta, after which a browser tab's values in ``tab_store`` are
        deleted; each use in that tab restarts it. By default an hour.
    :param max_bytes: how many bytes all keys and values of one session or user may take. By default 1 GiB.
    :param max_value_bytes: how many bytes one value may take. By default 512 MiB.
    :param max_keys: how many keys one session or user may have. By default 10,000.
    :param max_key_length: how many characters a key may have. By default 512, which is also the maximum.
    :param timeout: how long a call waits for other writers, in seconds or as a timedelta, before it raises StorageBusy.
        By default 5 seconds.
    :param codec: ``"pickle"``, the default, or ``"json"``, which never reads or writes a pickle
    :param authenticate_arrays: whether floating-point numbers in large NumPy arrays are authenticated, like everything
        else. By default they are not, so that they can be memory-mapped instead of read. Someone who can write to the
        storage could then change these numbers, but could not run code.
    :param synchronous: ``"NORMAL"``, the default, or ``"FULL"``, with which an acknowledged write also survives a power
        loss
    :param counts_as_use: a function that receives the request and returns whether its use of the store keeps the
        session alive. By default (None), each use does. On ASGI servers the request is Werkzeug's, without a body.
    :param starts_session: a function that receives a request without a session and returns whether a session may
        begin. If not, no cookie is sent, the store is empty, and a write raises SessionRefused. Use it for clients
        that keep no cookies, because each of their writes would begin a session. By default (None), each request may
        begin one.
    :param flask_login: whether Flask-Login's ``login_user`` gives the session a new id and binds it to the user, and
        ``logout_user`` ends it. By default True; without Flask-Login it has no effect.
    :param flask_session: whether ``flask.session`` is kept in the visitor's store, too, with one cookie for both, which
        has Flask's name and attributes. By default False.
    :param flask_session_user_key: the key of ``flask.session`` that holds the id of the logged-in user. By default
        ``"_user_id"``, which Flask-Login uses. When a request changes it, the session gets a new id and is bound to
        that user; when a request removes it, the session ends. None leaves this to the app.
    :param embedded: whether pages of other sites show the app in an iframe, as Jupyter does. The cookie is then
        ``SameSite=None; Secure; Partitioned``, and cross-site requests are ignored as with Lax. By default False.
    :param background_results: ``"private"``, the default, gives the result of a background callback only to the visitor
        who started it. ``"shared"``, as in plain Dash, gives it to all who start it with the same arguments.
    :param metrics: ``"opentelemetry"`` or ``"prometheus"``, to count and time what the storage does. By default (None)
        it is not counted, which costs nothing.
    :param cookie_name: by default (None) ``user_store``; with ``flask_session``, SESSION_COOKIE_NAME
    :param cookie_path: by default (None) the path of Flask's session cookie; for a Dash app, the path where browsers
        see the app
    :param cookie_domain: by default (None) SESSION_COOKIE_DOMAIN
    :param cookie_samesite: ``"Lax"``, ``"Strict"`` or ``"None"``. By default (None) SESSION_COOKIE_SAMESITE, or Lax if
        that is not set.
    :param cookie_secure: whether browsers send the cookie over https only. By default (None), they do if
        SESSION_COOKIE_SECURE is set, or if the request that sets the cookie came by https.
    :param cookie_partitioned: whether each site that embeds the app has its own cookie (CHIPS). By default (None)
        SESSION_COOKIE_PARTITIONED.
    :param cookie_eager: True sets a new visitor's cookie with the first response, False with the first response whose
        request used the store. By default (None), True if a Dash app is on the server, because its callbacks come in
        parallel, else False.
    :param clock: a function that returns seconds since the epoch, for tests
    :raises ConfigurationError: as in :meth:`init_app`
    """

    def __init__(
        self,
        app: Flask | Dash | ASGIApp | None = None,
        *,
        secret_key: str | bytes | None = None,
        secret_key_fallbacks: Sequence[str | bytes] = (),
        url: str | Unset = UNSET,
        ttl: float | timedelta | Unset = UNSET,
        lifetime: float | timedelta | Unset = UNSET,
        tab_ttl: float | timedelta | Unset = UNSET,
        max_bytes: int | Unset = UNSET,
        max_value_bytes: int | Unset = UNSET,
        max_keys: int | Unset = UNSET,
        max_key_length: int | Unset = UNSET,
        timeout: float | timedelta | Unset = UNSET,
        codec: Literal["pickle", "json"] | Unset = UNSET,
        authenticate_arrays: bool | Unset = UNSET,
        synchronous: Synchronous | Unset = UNSET,
        counts_as_use: Callable[[Any], bool] | Unset | None = UNSET,
        starts_session: Callable[[Any], bool] | Unset | None = UNSET,
        flask_login: bool | Unset = UNSET,
        flask_session: bool | Unset = UNSET,
        flask_session_user_key: str | Unset | None = UNSET,
        embedded: bool | Unset = UNSET,
        background_results: Literal["private", "shared"] | Unset = UNSET,
        metrics: Literal["opentelemetry", "prometheus"] | Unset | None = UNSET,
        cookie_name: str | Unset | None = UNSET,
        cookie_path: str | Unset | None = UNSET,
        cookie_domain: str | Unset | None = UNSET,
        cookie_samesite: str | Unset | None = UNSET,
        cookie_secure: bool | Unset | None = UNSET,
        cookie_partitioned: bool | Unset | None = UNSET,
        cookie_eager: bool | Unset | None = UNSET,
        clock: Clock = wall_clock,
    ) -> None:
        given = locals()  # Each setting is a parameter of the same name.
        self._options = {each.name: given[each.name] for each in fields(Settings) if given[each.name] is not UNSET}
        self._secrets = [*(() if secret_key is None else (secret_key,)), *secret_key_fallbacks]
        self._clock = clock
        # Each app keeps its own extension. Weak references: an instance that serves many apps, as in tests, must not
        # keep them alive.
        self._extensions = WeakSet[Extension]()
        self._own = None if app is None else self._install(app, stacklevel=3)

    def init_app(self, app: Flask | Dash | ASGIApp) -> None:
        """Install the middleware on an app.

        :param app: a Flask, Quart, FastAPI or Starlette app, or a Dash app on one of these. Pass any other ASGI app to
            the constructor instead.
        :raises ConfigurationError: if the app is none of these, or already has a store, or if a setting is unknown or
            invalid. SECRET_KEY, and settings that the app changes later, are checked with the first request.
        """
        self._install(app, stacklevel=3)

    def _install(self, app: Flask | Dash | ASGIApp, stacklevel: int) -> Extension:
        adapter = _adapter_of(app, self._secrets)
        if adapter.is_installed:
            raise ConfigurationError(
                f"The app {adapter.name!r} has a user store already; install UserStoreMiddleware on it once."
            )
        extension = Extension(adapter, self._options, self._clock, stacklevel + 1)
        adapter.install(self, extension)
        self._extensions.add(extension)
        return extension

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as the ASGI app that was passed to the constructor."""
        if self._own is None:
            raise ConfigurationError(
                "This UserStoreMiddleware was created without an app, so it cannot be served as one. Pass the ASGI "
                "app to the constructor."
            )
        await self._own.adapter.entry(scope, receive, send)

    def for_user(self, user_id: str | int, ttl: float | timedelta | None = None) -> UserStore:
        """The store of a user id. It is the same in every browser, and can be used outside of a request.

        :param user_id: at most 512 characters; an int is the same user as its decimal text
        :param ttl: idle time, in seconds or as a timedelta, after which the values are deleted; None keeps them until
            you delete them
        :returns: the store, which is empty if nothing is stored for the user
        :raises InvalidKey: if the id is too long or contains a lone surrogate
        :raises InvalidKeyType: if the id is neither str nor int
        :raises InvalidTTL: if ``ttl`` is not positive, or is longer than a century
        """
        return self.opened().for_user(user_id, ttl)

    def open(self, handle: str) -> UserStore:
        """A session's store outside of its request: in a thread, a task or a job, in any process of the app.

        Its reads and writes do not count as a use of the session, so they do not keep it alive.

        :param handle: the string that ``g.user_store.job_handle()`` returned in the request. Its store keeps working
            when the session gets a new id. Its ``session_id`` is None, and ``regenerate`` and ``destroy`` raise
            OutsideRequest. You can also pass a ``g.user_store.session_id``. It opens the session only for as long as
            the session has this id. It is a secret, so keep it out of queues.
        :returns: the store. It is empty if nothing is stored for the session, or if the session has ended; in the
            latter case, writing to it raises SessionEnded.
        :raises InvalidKey: if it is neither a session id nor a handle that this app has made
        """
        return self.opened().open_store(handle)

    def sessions(self, user_id: str | int) -> list[UserSession]:
        """The sessions in which the user is logged in: those in which ``regenerate(user_id=...)`` was called.

        :param user_id: the id that was passed to ``regenerate``; an int is the same user as its decimal text
        :returns: when each session began and was last used, and its size in bytes, oldest first. Sessions that have
            ended or expired are not included; the list is empty if there are no others.
        :raises InvalidKey: if the id is too long or contains a lone surrogate
        :raises InvalidKeyType: if the id is neither str nor int
        :raises StorageError: if the storage fails
        """
        return self.opened().sessions(user_id)

    def end_sessions(self, user_id: str | int, but: UserStore | None = None) -> int:
        """Log the user out everywhere: end the sessions in which ``regenerate(user_id=...)`` was called.

        :param user_id: the id that was passed to ``regenerate``; an int is the same user as its decimal text
        :param but: the store of a session to keep; pass ``g.user_store`` to log the user out everywhere else
        :returns: how many sessions were ended
        :raises InvalidKey: if the id is too long or contains a lone surrogate
        :raises InvalidKeyType: if the id is neither str nor int
        :raises NotASession: if ``but`` is the store of a user id, or of a job
        :raises StorageError: if the storage fails
        """
        return self.opened().end_sessions(user_id, but)

    def purge(self) -> int:
        """Remove everything that has expired. The app also does this by itself, a little at a time, after responses.

        :returns: how many sessions and users were removed
        :raises StorageError: if the storage fails
        """
        return self.opened().request_sessions.maintenance.run_to_the_end()

    def health(self, timeout: float = DEFAULT_TIMEOUT) -> Health:
        """Whether the storage can be read and written now, and how full it is: for a load balancer, or an alarm.

        It reads and writes a value of its own, which takes a few milliseconds. On an event loop, call it with
        ``asyncio.to_thread``.

        :param timeout: seconds to wait for the storage to answer
        :returns: what was found. A storage that fails raises nothing here: the result says so.
        :raises ConfigurationError: if it serves several apps and none is current, or if a setting is invalid
        """
        return self.extension().health(timeout)

    def close(self) -> None:
        """Close the files and connections of all apps that it serves, for example at the end of a test.

        Any later use of a store raises StorageClosed. Closing twice does nothing. You need not call it for an app that
        is garbage-collected: its files and connections are closed with it.
        """
        for extension in list(self._extensions):
            extension.close()

    def opened(self, app: Flask | None = None) -> OpenedExtension:
        """An app's storage, codec and sessions. The first call opens the storage.

        :param app: an app that it serves; None for the current app or, outside of an app context, the only one
        :raises ConfigurationError: if it serves no such app, or several and none is current; or if a setting is invalid
        :raises StorageError: if the storage cannot be opened
        """
        if has_request_context() and OPENED_KEY in request.environ:
            opened: OpenedExtension = request.environ[OPENED_KEY]
            return opened
        return opened_in_test.get() or self.extension(app).open()

    def extension(self, app: Flask | None = None) -> Extension:
        """An app's extension. This opens nothing.

        :param app: an app that it serves; None for the current app or, outside of an app context, the only one
        :raises ConfigurationError: if it serves no such app, or several and none is current
        """
        extensions = list(self._extensions)
        if app is None and has_app_context():
            app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
        for extension in extensions:
            if extension.app is app:
                return extension
        if len(extensions) == 1:
            return extensions[0]
        raise ConfigurationError(
            f"This UserStoreMiddleware serves {len(extensions)} apps, so it does not know which one you mean. "
            + ("Call it inside `with app.app_context():`." if extensions else "Call init_app(app) first.")
        )


def _adapter_of(app: Any, secrets: Sequence[str | bytes]) -> AppAdapter:
    server = app if isinstance(app, Flask) else getattr(app, "server", app)
    adapter = FlaskApp(app, server) if isinstance(server, Flask) else asgi_app(app, server, secrets)
    if adapter is None:
        raise ConfigurationError(
            "UserStoreMiddleware needs a Flask app, a Dash app, or an ASGI app such as a Quart, FastAPI or "
            f"Starlette app, not {type(app).__name__}. Pass the app itself, not app.wsgi_app, which it wraps in place."
        )
    if secrets and adapter.has_config:
        raise ConfigurationError(
            f"secret_key= is for an app without a config, but the app {adapter.name!r} has one. Set app.secret_key "
            "instead, and SECRET_KEY_FALLBACKS in app.config."
        )
    return adapter
