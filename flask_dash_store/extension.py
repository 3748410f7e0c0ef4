"""What UserStoreMiddleware keeps for one app: its settings and, once it is open, its storage."""

from __future__ import annotations

import hmac
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Config, Flask, has_request_context, request

from .codec import CODECS, Codec
from .cookie import SessionCookie
from .dash.jobs import is_poll, register
from .dash.pages import has_dash, hide_store_from_dash_setup
from .errors import ConfigurationError, LateSetting, NotASession, StorageClosed, WeakSecretKey
from .expiry import Access, Clock, ExpiryPolicy, seconds
from .flask_login import LoginSignals
from .flask_session import StoreSessionInterface, check_interface, inheriting
from .job_handle import JobHandles, is_handle
from .job_store import JobStore
from .owner import DerivedIds, new_session_id, session_owner, user_hash, user_id_of, user_owner
from .proxy import give_globals_a_store
from .session_state import SessionState
from .sessions import RequestSessions
from .settings import PREFIX, Settings, secrets_of, weakness_of
from .signals import Signals
from .storage import Storage, StorageOptions, check_scheme, open_storage
from .user_store import SessionContext, UserSession, UserStore
from .wsgi import SessionMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_FLASKS_SETTINGS = ("SECRET_KEY", "SESSION_COOKIE_", "PERMANENT_SESSION_LIFETIME", "APPLICATION_ROOT")
_COOKIES_SETTINGS = ("SESSION_COOKIE_",)
_SETTINGS = (PREFIX, "SECRET_KEY")


_extensions: weakref.WeakSet[Extension] = weakref.WeakSet()


class Extension:
    """The user store of one app, installed around its ``wsgi_app``.

    The app's config is read, and the storage opened, with the first request or other use, so settings that come after
    ``init_app`` count too. Settings that are wrong already when it is made are an error at once.

    :param options: the settings that win over the app's config
    :param paths: gives the path under which the browser sees the app, and what of that path the app itself sees
    :param stacklevel: of the call that a warning is about
    """

    def __init__(
        self,
        app: Flask,
        options: Mapping[str, Any],
        paths: Callable[[], tuple[str, str]],
        clock: Clock,
        stacklevel: int,
    ) -> None:
        self.app = app
        self._options = options
        self._paths = paths
        self._clock = clock
        self._opened: OpenedExtension | None = None
        self._settings_read: Settings | None = None
        self._storage: Storage | None = None
        self._check(stacklevel + 1)
        self._is_closed = False
        self._name = register(self, app.import_name)
        self.begin_in_this_process()
        _extensions.add(self)
        self._wsgi_app = app.wsgi_app
        app.wsgi_app = self  # type: ignore[method-assign]
        give_globals_a_store(app, self._name)
        self._login_signals = LoginSignals(app, lambda: self._settings().flask_login)

    def begin_in_this_process(self) -> None:
        """Have a lock that no thread of another process can have left acquired."""
        self._lock = threading.Lock()

    def _check(self, stacklevel: int) -> None:
        settings = Settings.of(self.app.config, self._options)
        check_scheme(settings.url)
        settings.cookie_attributes(self.app.config, self._paths_by(settings)[0])
        self._keep_flask_session(settings)
        self._has_checked_secret = bool(self.app.config.get("SECRET_KEY"))
        if self._has_checked_secret:
            _warn_of_weak_secret(secrets_of(self.app.config), stacklevel + 1)

    def _keep_flask_session(self, settings: Settings) -> None:
        if settings.flask_session:
            check_interface(self.app)
            if type(self.app.session_interface) is not StoreSessionInterface:
                self.app.session_interface = StoreSessionInterface(self._settings)

    def _paths_by(self, settings: Settings) -> tuple[str, str]:
        if settings.flask_session:  # The cookie is Flask's, whose session is that of all the server's pages.
            return self.app.session_interface.get_cookie_path(self.app), "/"
        return self._paths()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._opened is None and self._has_null_session():
            return self._wsgi_app(environ, start_response)
        return (self._opened or self.open()).wsgi(environ, start_response)

    def _has_null_session(self) -> bool:
        """Whether it is Flask's to say that SECRET_KEY is missing, where flask.session is used."""
        return not self.app.config.get("SECRET_KEY") and self._settings().flask_session

    def open(self) -> OpenedExtension:
        """The opened extension. The first call reads the app's settings and opens the storage.

        :raises ConfigurationError: when one cannot be used, or SECRET_KEY is missing
        :raises StorageError: when the storage cannot be opened, or has been closed
        """
        with self._lock:
            if self._is_closed:
                raise StorageClosed(f"The user store of the app {self.app.name!r} has been closed.")
            if self._opened is None:
                settings = self._settings()
                self._keep_flask_session(settings)
                if not self._has_checked_secret:
                    _warn_of_weak_secret(secrets_of(self.app.config), stacklevel=2)
                    self._has_checked_secret = True
                opened = self._open(settings, self._storage)
                if self._storage is None:
                    hide_store_from_dash_setup(self.app, lambda: opened.open_session(new_session_id()))
                    if has_dash(self.app):
                        from .dash import background  # Which imports Dash.

                        background.install()
                    followed = _FLASKS_SETTINGS if settings.flask_session else _COOKIES_SETTINGS
                    _watch_changes(self.app.config, followed, self._reopen)
                self._storage, self._settings_read, self._opened = opened.storage, settings, opened
            return self._opened

    def _open(self, settings: Settings, storage: Storage | None = None) -> OpenedExtension:
        return OpenedExtension(
            self.app, self._name, settings, *self._paths_by(settings), self._clock, self._wsgi_app, storage
        )

    def _reopen(self) -> None:
        """From now on, follow Flask's settings, as Flask's own session does.

        Flask-Talisman sets SESSION_COOKIE_SECURE in the first request, and again in each, so the cookie of the response
        to that request follows, too.
        """
        with self._lock:
            if self._opened is not None:
                self._opened.follow_cookie_settings()
            self._opened = None

    def _settings(self) -> Settings:
        return self._settings_read or Settings.of(self.app.config, self._options)

    def open_in_memory(self) -> OpenedExtension:
        """One more opened extension with the app's settings, whose values are its own and in memory: for a test."""
        return self._open(replace(self._settings(), url="memory://"))

    def close(self) -> None:
        """Release the app's storage. Requests that do not use their store are still answered."""
        with self._lock:
            self._is_closed = True
            if self._storage is not None:
                self._storage.close()


class OpenedExtension:
    """An app's storage, codec and session middleware, made from its settings.

    :param name: tells the app from the others of its process
    :param cookie_path: where the browser sees the app, for a cookie that no setting gives a path
    :param home: the path, as the app sees it, under which the browser sends that cookie
    :param storage: one that is open already; None opens that of the settings
    """

    def __init__(
        self,
        app: Flask,
        name: str,
        settings: Settings,
        cookie_path: str,
        home: str,
        clock: Clock,
        wsgi_app: WSGIApplication,
        storage: Storage | None = None,
    ) -> None:
        secrets = secrets_of(app.config)
        attributes = settings.cookie_attributes(app.config, cookie_path)
        self._app = app
        self._cookie_path = cookie_path
        self.settings = settings
        self.cookie_attributes = attributes
        self.storage = self.open_storage(settings.url) if storage is None else storage
        self.codec: Codec = CODECS[settings.codec](secrets, settings.authenticate_arrays)
        visitor_key = hmac.digest(secrets[0], b"flask_dash_store.visitor", "sha256")
        with_dash = has_dash(app)
        ids, permanent = DerivedIds(secrets[0]), app.permanent_session_lifetime
        self._context = SessionContext(
            self.storage,
            self.codec,
            ExpiryPolicy(settings.idle_seconds(permanent), clock),
            settings.max_key_length,
            settings.max_value_bytes,
            lifetime=settings.lifetime_seconds,
            ids=ids,
            handles=JobHandles(secrets, attributes.name),
            visitor_key=visitor_key,
            app=name,
            signals=Signals(app, visitor_key),
            tab_ttl=settings.tab_ttl_seconds,
        )
        self._cookie = SessionCookie(
            attributes,
            secrets,
            settings.lifetime_seconds,
            clock,
            permanent.total_seconds() if settings.flask_session else None,
        )
        self.request_sessions = RequestSessions(
            self._cookie,
            self._context,
            home if attributes.path == cookie_path else "/",
            with_dash if settings.cookie_eager is None else settings.cookie_eager,
            _within_request(settings.counts_as_use),
            inheriting(app, attributes.name, ids) if settings.flask_session else None,
            is_poll if with_dash else None,
        )
        self.wsgi = SessionMiddleware(wsgi_app, self.request_sessions)

    def follow_cookie_settings(self) -> None:
        """Send the cookies of requests that are being handled with what Flask's settings have become."""
        with suppress(ConfigurationError):  # The next request raises it.
            self._cookie.follow(self.settings.cookie_attributes(self._app.config, self._cookie_path))

    def open_storage(self, url: str, must_exist: bool = False) -> Storage:
        """The storage that a URL names, with this app's limits.

        :param must_exist: whether a file that is not there is an error, instead of being made
        """
        settings = self.settings
        return open_storage(
            url,
            StorageOptions(
                Path(self._app.instance_path),
                settings.limits,
                settings.timeout_seconds,
                settings.lifetime_seconds,
                settings.synchronous,
                must_exist,
            ),
        )

    def access_of_users(self) -> Access:
        """A use now of the values of a user, which are kept until they are deleted."""
        return ExpiryPolicy(None, self._context.expiry.clock).access()

    # The calls of UserStoreMiddleware, whose docstrings say what they do.

    def for_user(self, user_id: str | int, ttl: float | timedelta | None) -> UserStore:
        expiry = ExpiryPolicy(None if ttl is None else seconds(ttl), self._context.expiry.clock)
        return UserStore(replace(self._context, expiry=expiry), SessionState(user_owner(user_id)))

    def open_store(self, handle: str) -> UserStore:
        if is_handle(handle):
            return JobStore(self._context, self._context.handles.load(handle))
        return self.open_session(handle)

    def open_session(self, session_id: str) -> UserStore:
        state = SessionState(session_owner(session_id))
        state.session_id = session_id
        state.counts_as_use = lambda: False  # A job keeps no session alive; only the visitor does.
        return UserStore(self._context, state)

    def sessions(self, user_id: str | int) -> list[UserSession]:
        found = self.storage.sessions(user_hash(user_owner(user_id)), self._context.expiry.access())
        return [UserSession.of(info, self._context.expiry.ttl) for info in found]

    def end_sessions(self, user_id: str | int, but: UserStore | None) -> int:
        name, kept = user_owner(user_id).name, None
        user = user_hash(user_owner(user_id))
        if but is not None:
            if but.session_id is None:
                raise NotASession("but= takes the store of a session, as g.user_store is, not a user id's or a job's.")
            kept = session_owner(but.session_id).name
        ended = set[str]()
        while True:  # A session that is given another id meanwhile is found again in the next round.
            access = self._context.expiry.access()
            owners = [info.owner for info in self.storage.sessions(user, access) if info.owner.name != kept]
            if not owners:
                return len(ended)
            for owner in owners:
                self._context.end(owner, access, "destroyed", user_id_of(name))
                ended.add(owner.name)


def _begin_in_child() -> None:
    for extension in list(_extensions):
        extension.begin_in_this_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


def _within_request(counts_as_use: Callable[[Any], bool] | None) -> Callable[[], bool] | None:
    if counts_as_use is None:
        return None
    return lambda: not has_request_context() or bool(counts_as_use(request))


def _warn_of_weak_secret(secrets: list[bytes], stacklevel: int) -> None:
    weakness = weakness_of(secrets)
    if weakness is not None:
        warnings.warn(weakness, WeakSecretKey, stacklevel=stacklevel)


def _watch_changes(config: Config, followed: tuple[str, ...], follow: Callable[[], None]) -> None:
    """From now on, notice each change of what has been read from an app's config.

    :param followed: how the names of the settings begin whose change is followed; that of others is warned of
    :param follow: called after a change
    """
    kind = type(config)
    attributes = {"_followed": followed, "_follow": staticmethod(follow)}
    config.__class__ = type(kind.__name__, (_ReadConfig, kind), attributes)


class _ReadConfig(Config):
    """An app's config after it has been read.

    It notices where a setting is changed. To compare it with what was read would cost each request a microsecond.
    """

    _followed: tuple[str, ...]
    _follow: Callable[[], None]

    def __setitem__(self, key: str, value: Any) -> None:
        self._change(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self._change(key, value)

    def _change(self, key: str, value: Any) -> None:
        has_changed = self.get(key) != value
        is_followed = key.startswith(self._followed)
        if has_changed and not is_followed:
            _warn_of_late(key)
        super().__setitem__(key, value)
        if has_changed and is_followed:
            self._follow()


def _warn_of_late(key: str) -> None:
    if key.startswith(_SETTINGS):
        warnings.warn(
            f"{key} is changed after the app's first request, with which it was read, so the user store goes on with "
            "what it was. Set it before the first request.",
            LateSetting,
            stacklevel=4,
        )
