"""UserStoreMiddleware: what an app installs, and how its code comes to the visitor's store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from .settings import UNSET, Unset
from .storage.base import Synchronous
from .store.user_store import UserSession, UserStore

if TYPE_CHECKING:
    from dash import Dash


class UserStoreMiddleware:
    """Gives every visitor of a Flask or Dash app a store of its own, ``user_store``; on Flask, ``g.user_store``, too.

    ``UserStoreMiddleware(app)`` installs it at once; ``UserStoreMiddleware()`` and ``init_app(app)`` suit app
    factories, and one instance may serve several apps. It wraps ``app.wsgi_app`` in place, so ``app.run()`` and
    every WSGI server run it. In the app, ``app.extensions["user_store"]`` is the instance.

    A Dash app may also be on Quart or FastAPI. Apps of Quart, FastAPI and Starlette are changed in place, too. Any
    other ASGI app is wrapped: the instance is the app to serve then. So ``app.add_middleware(UserStoreMiddleware,
    secret_key=...)`` works as well.

    Each option but ``secret_key`` and ``secret_key_fallbacks`` is also a config key, in upper case with ``USER_STORE_``
    before it; an option that is given wins over the config. The config is read with the first request. SECRET_KEY has
    to be set by then, and SECRET_KEY_FALLBACKS holds former ones, if any.

    :param app: an app of Flask, Quart, FastAPI or Starlette, a Dash app on one of these, any other ASGI app, or None
    :param secret_key: signs cookies and values, for an app that has no config. By default, as None, the app's attribute
        ``secret_key``.
    :param secret_key_fallbacks: former ones, which still verify what they have signed
    :param url: where the values are. ``sqlite:///name`` is a file in the app's instance folder (of an app without one,
        ``instance`` in the folder that the process began in),
        ``sqlite:////absolute/path`` one anywhere; also ``sqlite://:memory:``, ``memory://``, ``redis://…`` and
        ``postgresql://…``. By default ``sqlite:///user_store.sqlite``.
    :param ttl: idle time, in seconds or as a timedelta, after which a session's values are gone; each use moves it. By
        default a day.
    :param lifetime: age, in seconds or as a timedelta, at which a session ends however busy it is. By default 31 days.
    :param tab_ttl: idle time, in seconds or as a timedelta, after which a browser tab's values in ``tab_store`` are
        gone; each use in that tab moves it. By default an hour.
    :param max_bytes: bytes that all keys and values of one session or user may take. By default 1 GiB.
    :param max_value_bytes: bytes that one value may take. By default 512 MiB.
    :param max_keys: how many keys one session or user may have. By default 10,000.
    :param max_key_length: characters that a key may have: at most 512, which is the default
    :param timeout: how long a call waits for other writers, in seconds or as a timedelta, before it raises StorageBusy.
        By default 5 seconds.
    :param codec: ``"pickle"``, the default, or ``"json"``, which reads and writes no pickle
    :param authenticate_arrays: whether floating-point numbers in large NumPy arrays are authenticated, as all else is.
        By default they are not: they are mapped instead of read. A writer to the storage can then change them, but
        cannot run code.
    :param synchronous: ``"NORMAL"``, the default, or ``"FULL"``: an acknowledged write survives a power loss, too
    :param counts_as_use: a function that is given the request and returns whether its use of the store keeps the
        session alive. By default, as None, each use does. On ASGI servers the request is Werkzeug's, without a body.
    :param starts_session: a function that is given a request which came without a session, and returns whether one
        may begin. Where it may not, no cookie is sent, the store is empty, and a write raises SessionRefused: for
        clients that keep no cookie, each of whose writes would begin a session. By default, as None, each may.
    :param flask_login: whether Flask-Login's ``login_user`` gives the session a new id, which counts as that user's,
        and ``logout_user`` ends it. By default True: it makes a difference where Flask-Login is in use.
    :param flask_session: whether ``flask.session`` is kept in the visitor's store, too, so that there is one cookie for
        both, with Flask's name and attributes. By default False.
    :param flask_session_user_key: where ``flask.session`` says who has logged in: by default ``"_user_id"``, as
        Flask-Login does. When a request changes it, the session gets a new id, which counts as that user's; when a
        request removes it, the session ends. None leaves this to the app.
    :param embedded: whether pages of other sites show the app in an iframe, as Jupyter does. The cookie is
        ``SameSite=None; Secure; Partitioned`` then, with the protection against requests of other sites that Lax gives.
        By default False.
    :param background_results: ``"private"``, the default, gives the result of a background callback to the visitor who
        started it alone. ``"shared"`` is Dash's own way: it is for all who start it with the same arguments.
    :param metrics: ``"opentelemetry"`` or ``"prometheus"`` to count and time what the storage does. By default, as
        None, it is not counted, and that costs nothing.
    :param cookie_name: by default, as None, ``user_store``; with ``flask_session``, SESSION_COOKIE_NAME
    :param cookie_path: by default, as None, that of Flask's session cookie; for a Dash app, where browsers see it
    :param cookie_domain: by default, as None, SESSION_COOKIE_DOMAIN
    :param cookie_samesite: ``"Lax"``, ``"Strict"`` or ``"None"``; by default, as None, SESSION_COOKIE_SAMESITE, and Lax
        where that is not set
    :param cookie_secure: whether browsers send the cookie over https alone; by default, as None, when
        SESSION_COOKIE_SECURE is set, or the request that sets the cookie came by https
    :param cookie_partitioned: whether each site that embeds the app has a cookie of its own (CHIPS); by default, as
        None, SESSION_COOKIE_PARTITIONED
    :param cookie_eager: whether a new visitor gets the cookie with the first response, or, if False, with the first one
        whose request uses the store. By default, as None, True where a Dash app is on the server, whose callbacks
        come in parallel.
    :param clock: gives seconds since the epoch; for tests
    :raises ConfigurationError: as :meth:`init_app` does
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
        options: dict[str, Any] = {
            "url": url,
            "ttl": ttl,
            "lifetime": lifetime,
            "tab_ttl": tab_ttl,
            "max_bytes": max_bytes,
            "max_value_bytes": max_value_bytes,
            "max_keys": max_keys,
            "max_key_length": max_key_length,
            "timeout": timeout,
            "codec": codec,
            "authenticate_arrays": authenticate_arrays,
            "synchronous": synchronous,
            "counts_as_use": counts_as_use,
            "starts_session": starts_session,
            "flask_login": flask_login,
            "flask_session": flask_session,
            "flask_session_user_key": flask_session_user_key,
            "embedded": embedded,
            "background_results": background_results,
            "metrics": metrics,
            "cookie_name": cookie_name,
            "cookie_path": cookie_path,
            "cookie_domain": cookie_domain,
            "cookie_samesite": cookie_samesite,
            "cookie_secure": cookie_secure,
            "cookie_partitioned": cookie_partitioned,
            "cookie_eager": cookie_eager,
        }
        self._options = {name: value for name, value in options.items() if value is not UNSET}
        self._secrets = [*(() if secret_key is None else (secret_key,)), *secret_key_fallbacks]
        self._clock = clock
        # An app keeps its own extension. One instance for many apps, as tests make them, keeps none of them alive.
        self._extensions = WeakSet[Extension]()
        self._own = None if app is None else self._install(app, stacklevel=3)

    def init_app(self, app: Flask | Dash | ASGIApp) -> None:
        """Install the middleware on an app.

        :param app: an app of Flask, Quart, FastAPI or Starlette, or a Dash app on one of these. Any other ASGI app is
            given when the instance is made.
        :raises ConfigurationError: when the app is none of these, or has a store already, or when a setting is unknown
            or cannot be used. What the app sets later, and SECRET_KEY, is checked with the first request.
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
        """Serve as the ASGI app that it was made with."""
        if self._own is None:
            raise ConfigurationError("This UserStoreMiddleware was made without an app, so it cannot be served as one.")
        await self._own.adapter.entry(scope, receive, send)

    def for_user(self, user_id: str | int, ttl: float | timedelta | None = None) -> UserStore:
        """The store of a user id, whichever browser the user comes with, in or out of a request.

        :param user_id: at most 512 characters; an int is the same user as its decimal text
        :param ttl: idle seconds, or a timedelta, after which the values are gone; None keeps them until they are
            deleted
        :returns: a store, empty when nothing is stored for the user
        :raises InvalidKey: when the id is too long or holds a lone surrogate
        :raises InvalidKeyType: when it is neither str nor int
        :raises InvalidTTL: when ``ttl`` is not longer than zero
        """
        return self.opened().for_user(user_id, ttl)

    def open(self, handle: str) -> UserStore:
        """A session's store out of its request, for a thread, a task, a job, in any process of the app.

        What is done with it does not count as use: it moves no expiry, for it is not the visitor who does it.

        :param handle: what ``g.user_store.job_handle()`` gave in the request. Its store follows the session when it is
            given another id, and has neither ``session_id`` nor ``regenerate`` nor ``destroy``, which raise
            OutsideRequest. Or what ``g.user_store.session_id`` was: it opens the session under this id alone, and is a
            secret, so keep it out of queues.
        :returns: a store, empty when nothing is stored for the session or it has ended; writing to it raises
            SessionEnded then
        :raises InvalidKey: when it is neither a session id nor a handle that this app has made
        """
        return self.opened().open_store(handle)

    def sessions(self, user_id: str | int) -> list[UserSession]:
        """The sessions in which the user is logged in: those that ``regenerate(user_id=...)`` was called in.

        :param user_id: as it was given to ``regenerate``; an int is the same user as its decimal text
        :returns: when each began, was used last, and its bytes, oldest first; those that have ended or expired are not
            among them
        :raises InvalidKey: when the id is too long or holds a lone surrogate
        :raises InvalidKeyType: when it is neither str nor int
        :raises StorageError: when the storage fails
        """
        return self.opened().sessions(user_id)

    def end_sessions(self, user_id: str | int, but: UserStore | None = None) -> int:
        """Log the user out everywhere: end the sessions that ``regenerate(user_id=...)`` was called in.

        :param user_id: as it was given to ``regenerate``; an int is the same user as its decimal text
        :param but: the store of a session that goes on, as ``g.user_store`` does for "everywhere else"
        :returns: how many sessions were ended
        :raises InvalidKey: when the id is too long or holds a lone surrogate
        :raises InvalidKeyType: when it is neither str nor int
        :raises NotASession: when ``but`` is the store of a user id, or a job's
        :raises StorageError: when the storage fails
        """
        return self.opened().end_sessions(user_id, but)

    def purge(self) -> int:
        """Remove everything that has expired. The app does so by itself, too, a little at a time, after responses.

        :returns: how many sessions, and users, were removed
        :raises StorageError: when the storage fails
        """
        return self.opened().request_sessions.maintenance.run_to_the_end()

    def health(self, timeout: float = DEFAULT_TIMEOUT) -> Health:
        """Whether the storage can be read and written now, and how full it is: for a load balancer, or an alarm.

        It reads and writes a value of its own, which takes a few milliseconds. On an event loop, call it by
        ``asyncio.to_thread``.

        :param timeout: seconds after which the storage is taken for one that does not answer
        :returns: what was found. That the storage fails is no error here, but what is said.
        :raises ConfigurationError: when it serves several apps and none is current, or when a setting cannot be used
        """
        return self.extension().health(timeout)

    def close(self) -> None:
        """Release the files and connections of all apps that it serves, as at the end of a test.

        Any later use of a store raises StorageClosed. A second close does nothing. An app that nothing refers to any
        more is not kept alive, and takes its files and connections with it.
        """
        for extension in list(self._extensions):
            extension.close()

    def opened(self, app: Flask | None = None) -> OpenedExtension:
        """An app's storage, codec and session middleware; the storage is opened if it was not before.

        :param app: one that it serves; None for the current one, or outside of all app contexts the only one
        :raises ConfigurationError: when it serves no such app, or several and none is current; or when a setting
            cannot be used
        :raises StorageError: when the storage cannot be opened
        """
        if has_request_context() and OPENED_KEY in request.environ:
            opened: OpenedExtension = request.environ[OPENED_KEY]
            return opened
        return opened_in_test.get() or self.extension(app).open()

    def extension(self, app: Flask | None = None) -> Extension:
        """An app's extension, which opens nothing by itself.

        :param app: one that it serves; None for the current one, or outside of all app contexts the only one
        :raises ConfigurationError: when it serves no such app, or several and none is current
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
            f"This UserStoreMiddleware serves {len(extensions)} apps, so it cannot tell which one is meant; "
            + ("call it inside `with app.app_context():`." if extensions else "call init_app(app) first.")
        )


def _adapter_of(app: Any, secrets: Sequence[str | bytes]) -> AppAdapter:
    server = app if isinstance(app, Flask) else getattr(app, "server", app)
    adapter = FlaskApp(app, server) if isinstance(server, Flask) else asgi_app(app, server, secrets)
    if adapter is None:
        raise ConfigurationError(
            "UserStoreMiddleware wraps a Flask app, a Dash app, or an ASGI app such as one of Quart, FastAPI or "
            f"Starlette, not {type(app).__name__}."
        )
    if secrets and adapter.has_config:
        raise ConfigurationError(
            f"secret_key= is for an app that has no config, and the app {adapter.name!r} has one: set its secret_key, "
            "and SECRET_KEY_FALLBACKS in its config."
        )
    return adapter
