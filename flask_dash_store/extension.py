"""What UserStoreMiddleware keeps for one app: its settings and, once it is open, its storage."""

from __future__ import annotations

import hmac
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import Any

from .apps.adapter import AppAdapter
from .apps.inheritance import ImportedSessions
from .codec import CODECS, Codec
from .dash.jobs import is_poll, register
from .errors import ConfigurationError, NotASession, StorageClosed, StorageError, WeakSecretKey
from .expiry import Access, Clock, ExpiryPolicy, seconds
from .health import Health, HealthProbe
from .http.cookie import SessionCookie
from .http.sessions import RequestSessions
from .job_handle import JobHandles, is_handle
from .metrics import check_exporter, measure
from .owner import DerivedIds, Owner, new_session_id, session_owner, user_hash, user_id_of, user_owner, visitor_name
from .settings import Settings, secrets_of, weakness_of
from .signals import Signals
from .storage import Storage, StorageOptions, check_scheme, open_storage
from .storage.base import SessionInfo, SupportsExport
from .store.job_store import JobStore
from .store.session_state import SessionState
from .store.user_store import SessionContext, UserSession, UserStore

_extensions: weakref.WeakSet[Extension] = weakref.WeakSet()

opened_in_test: ContextVar[OpenedExtension | None] = ContextVar("flask_dash_store.opened_in_test", default=None)
"""Replaces the app's own, inside ``user_store_context()``."""


class Extension:
    """The user store of one app.

    The first request, or other use, reads the app's config and opens the storage, so settings may come after
    ``init_app``. Settings that are invalid already at ``init_app`` raise an error there.

    :param options: settings that override the app's config
    :param stacklevel: of the call that warnings point to
    :ivar name: the app's name, unique in this process
    :ivar is_prepared: whether :meth:`prepare` has been called
    :ivar opened: what :meth:`open` returned; None if it must be called first
    """

    def __init__(self, app: AppAdapter, options: Mapping[str, Any], clock: Clock, stacklevel: int) -> None:
        self.adapter = app
        self.opened: OpenedExtension | None = None
        self._options = options
        self._clock = clock
        self._settings_read: Settings | None = None
        self._storage: Storage | None = None
        self._is_closed = self.is_prepared = False
        self._check(stacklevel + 1)
        self.name = register(self, app.import_name)
        self.renew_lock()
        _extensions.add(self)

    @property
    def app(self) -> Any:
        """The app itself; for a Dash app, its server."""
        return self.adapter.app

    def renew_lock(self) -> None:
        """Replace the lock, which another thread of the parent may have held when this process was forked."""
        self._lock = threading.Lock()

    def _check(self, stacklevel: int) -> None:
        settings, config = self.settings, self.adapter.config
        check_scheme(settings.url)
        if settings.metrics is not None:
            check_exporter(settings.metrics)
        settings.cookie_attributes(config, self.adapter.paths(settings)[0])
        self.adapter.apply(settings)
        self._has_checked_secret = bool(config.get("SECRET_KEY"))
        if self._has_checked_secret:
            _warn_of_weak_secret(secrets_of(config), stacklevel + 1)

    def prepare(self, prepare: Callable[[], None]) -> None:
        """Call a function once, with the first request, when the app is complete."""
        with self._lock:
            if not self.is_prepared:
                prepare()
                self.is_prepared = True

    def open(self) -> OpenedExtension:
        """The opened extension. The first call reads the app's settings and opens the storage.

        :raises ConfigurationError: if a setting is invalid, or SECRET_KEY is missing
        :raises StorageError: if the storage cannot be opened, or has been closed
        """
        with self._lock:
            if self._is_closed:
                raise StorageClosed(f"The user store of the app {self.adapter.name!r} has been closed.")
            if self.opened is None:
                settings = self.settings
                self.adapter.apply(settings)
                if not self._has_checked_secret:
                    _warn_of_weak_secret(secrets_of(self.adapter.config), stacklevel=2)
                    self._has_checked_secret = True
                opened = self._open(settings, self._storage)
                if self._storage is None:
                    self.adapter.on_first_open(self, opened, lambda: opened.open_session(new_session_id()))
                    if self.adapter.has_dash:
                        from .dash import background  # It imports Dash.

                        background.install()
                self._storage, self._settings_read, self.opened = opened.storage, settings, opened
            return self.opened

    def _open(self, settings: Settings, storage: Storage | None = None) -> OpenedExtension:
        return OpenedExtension(self.adapter, self.name, settings, self._clock, storage)

    def reopen(self) -> None:
        """Read Flask's cookie settings again, as Flask's own session does with each response.

        Flask-Talisman sets SESSION_COOKIE_SECURE during each request. So the cookie of the current response uses the
        new settings, too.
        """
        with self._lock:
            if self.opened is not None:
                self.opened.update_cookie_attributes()
            self.opened = None

    @property
    def settings(self) -> Settings:
        """The settings with which the storage was opened; before that, those of now."""
        return self._settings_read or Settings.of(self.adapter.config, self._options)

    def open_in_memory(self) -> OpenedExtension:
        """Another opened extension with the app's settings, whose values are its own, in memory: for a test."""
        return self._open(replace(self.settings, url="memory://", metrics=None))

    def health(self, timeout: float) -> Health:
        """Whether the app's storage works now. One that cannot be opened does not.

        :param timeout: seconds to wait for the storage to answer
        """
        began = time.perf_counter()
        try:
            opened = self.open()
        except StorageError as error:
            return Health(False, False, str(error), time.perf_counter() - began)
        return opened.health_probe.health(timeout)

    def close(self) -> None:
        """Close the app's storage. Requests that do not use their store still work."""
        with self._lock:
            self._is_closed = True
            if self._storage is not None:
                self._storage.close()


class OpenedExtension:
    """An app's storage, codec and sessions, made from its settings.

    :param name: the app's name, unique in this process
    :param storage: a storage that is already open; None opens the one that the settings name
    :ivar handler: the middleware that the app's requests go through
    """

    def __init__(
        self,
        app: AppAdapter,
        name: str,
        settings: Settings,
        clock: Clock,
        storage: Storage | None = None,
    ) -> None:
        secrets, (cookie_path, home) = secrets_of(app.config), app.paths(settings)
        attributes = settings.cookie_attributes(app.config, cookie_path)
        self._app = app
        self._cookie_path = cookie_path
        self.settings = settings
        self.cookie_attributes = attributes
        self.storage = self._open_own_storage(name) if storage is None else storage
        self.codec: Codec = CODECS[settings.codec](secrets, settings.authenticate_arrays)
        visitor_key = hmac.digest(secrets[0], b"flask_dash_store.visitor", "sha256")
        with_dash = app.has_dash
        permanent = app.permanent_session_lifetime
        self._context = SessionContext(
            self.storage,
            self.codec,
            ExpiryPolicy(settings.idle_seconds(permanent), clock),
            settings.max_key_length,
            settings.max_value_bytes,
            lifetime=settings.lifetime_seconds,
            ids=DerivedIds(secrets[0]),
            handles=JobHandles(secrets, attributes.name),
            visitor_key=visitor_key,
            app=name,
            signals=Signals(app.app, app.ensure_sync, visitor_key),
            tab_ttl=settings.tab_ttl_seconds,
        )
        self.health_probe = HealthProbe(self.storage, self.codec, clock)
        self.imported_sessions = ImportedSessions(self._context, settings, secrets)
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
            app.counts_as_use(settings.counts_as_use),
            app.inherit(attributes.name, secrets, self.imported_sessions) if settings.flask_session else None,
            is_poll if with_dash else None,
            app.starts_session(settings.starts_session),
        )
        self.handler = app.handler(self.request_sessions, settings)

    def update_cookie_attributes(self) -> None:
        """Use Flask's current cookie settings for the responses of requests that are already running."""
        with suppress(ConfigurationError):  # The next request raises it.
            self._cookie.set_attributes(self.settings.cookie_attributes(self._app.config, self._cookie_path))

    def _open_own_storage(self, name: str) -> Storage:
        storage = self.open_storage(self.settings.url)
        if self.settings.metrics is not None:
            measure(storage, self.settings.metrics, self._app.app, name)
        return storage

    def open_storage(self, url: str, must_exist: bool = False) -> Storage:
        """Open the storage that a URL names, with this app's limits.

        :param must_exist: whether a missing file is an error; otherwise it is created
        """
        settings = self.settings
        return open_storage(
            url,
            StorageOptions(
                self._app.folder,
                settings.limits,
                settings.timeout_seconds,
                settings.lifetime_seconds,
                settings.synchronous,
                must_exist,
            ),
        )

    def now(self) -> float:
        """The time, in seconds since the epoch."""
        return self._context.expiry.clock()

    def access_of_users(self) -> Access:
        """An access to the values of a user id, which do not expire."""
        return ExpiryPolicy(None, self._context.expiry.clock).access()

    # These implement the methods of UserStoreMiddleware, whose docstrings describe them.

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
        state.counts_as_use = lambda: False  # Only the visitor's own requests keep the session alive.
        return UserStore(self._context, state)

    def sessions(self, user_id: str | int) -> list[UserSession]:
        return [UserSession.of(info, self._context.expiry.ttl) for info in self.session_infos(user_id)]

    def session_infos(self, user_id: str | int) -> list[SessionInfo]:
        """The sessions in which a user is logged in."""
        return self.storage.sessions(user_hash(user_owner(user_id)), self._context.expiry.access())

    def end_sessions(self, user_id: str | int, but: UserStore | None) -> int:
        name, kept = user_owner(user_id).name, None
        user = user_hash(user_owner(user_id))
        if but is not None:
            if but.session_id is None:
                raise NotASession(
                    "but= takes the store of a session, such as g.user_store, not that of a user id or a job."
                )
            kept = session_owner(but.session_id).name
        ended = set[str]()
        while True:  # A session that gets another id in the meantime is found in the next round.
            access = self._context.expiry.access()
            owners = [info.owner for info in self.storage.sessions(user, access) if info.owner.name != kept]
            if not owners:
                return len(ended)
            for owner in owners:
                self._context.end(owner, access, "destroyed", user_id_of(name))
                ended.add(owner.name)

    # For operators

    def end_session(self, owner: Owner) -> bool:
        """End a session. Returns whether it was still open."""
        access = self._context.expiry.access()
        return owner.session is not None and self._context.end(owner, access, "destroyed") == access.now

    def name_of_visitor(self, visitor: str) -> str | None:
        """The name of the owner for whom ``visitor()`` returns this; None if there is none. It scans all owners."""
        storage, key = self.storage, self._context.visitor_key
        names = storage.all_owners() if isinstance(storage, SupportsExport) else ()
        return next((name for name in names if visitor_name(key, Owner(name)) == visitor), None)


def extension_of(app: Any) -> Extension | None:
    """The extension of an app; None if the app has no user store."""
    return next((each for each in list(_extensions) if each.app is app), None)


def _begin_in_child() -> None:
    for extension in list(_extensions):
        extension.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


def _warn_of_weak_secret(secrets: list[bytes], stacklevel: int) -> None:
    weakness = weakness_of(secrets)
    if weakness is not None:
        warnings.warn(weakness, WeakSecretKey, stacklevel=stacklevel)
