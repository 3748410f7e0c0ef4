"""The interface between the user store and an app of any framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from ..http.cookie import CookieAttributes
from ..http.sessions import Inheritance, RequestSessions
from ..settings import Settings
from ..store.user_store import UserStore


class Opened(Protocol):
    """The opened extension, as an app or a job sees it."""

    @property
    def settings(self) -> Settings: ...
    @property
    def handler(self) -> Any: ...
    @property
    def cookie_attributes(self) -> CookieAttributes: ...
    def open_store(self, handle: str) -> UserStore: ...


class Extension(Protocol):
    """The extension, as an app or a job sees it."""

    @property
    def name(self) -> str: ...
    @property
    def opened(self) -> Opened | None: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def is_prepared(self) -> bool: ...
    def prepare(self, prepare: Callable[[], None]) -> None: ...
    def open(self) -> Opened: ...
    def reopen(self) -> None: ...


class AppAdapter(ABC):
    """One app.

    :ivar app: the app itself, the sender of signals; for a Dash app, its server
    :ivar has_config: whether the app has a config, which holds its secrets
    """

    app: Any
    has_config = True

    @property
    @abstractmethod
    def name(self) -> str:
        """The app's name in error messages."""

    @property
    @abstractmethod
    def import_name(self) -> str:
        """The name by which jobs in other processes find it, like Flask's import name."""

    @property
    @abstractmethod
    def config(self) -> Mapping[str, Any]:
        """The app's current config."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder of files whose URL is relative."""

    @property
    def permanent_session_lifetime(self) -> timedelta:
        """How long browsers keep the cookie of a permanent session of Flask."""
        return timedelta(0)

    @abstractmethod
    def paths(self, settings: Settings) -> tuple[str, str]:
        """The path under which the browser sees the app, for its cookie, and the same path as the app sees it.

        The cookie's path has no slash at its end, so that browsers also send it to that path itself (RFC 6265, 5.1.4).
        """

    @property
    @abstractmethod
    def has_dash(self) -> bool:
        """Whether there is a Dash app on this server, even if the middleware was given the server."""

    @property
    @abstractmethod
    def is_installed(self) -> bool:
        """Whether the app already has a user store."""

    @abstractmethod
    def install(self, middleware: Any, extension: Extension) -> None:
        """Change the app so that its requests go through the :meth:`handler` of the opened extension."""

    @property
    @abstractmethod
    def entry(self) -> Callable[..., Awaitable[None]]:
        """The ASGI app with its store, to be served instead of the app.

        :raises ConfigurationError: if it is not an ASGI app
        """

    @abstractmethod
    def handler(self, sessions: RequestSessions, settings: Settings) -> Any:
        """The middleware that its requests go through."""

    @abstractmethod
    def apply(self, settings: Settings) -> None:
        """Change the app itself where a setting needs it.

        :raises ConfigurationError: if the app does not support the setting
        """

    @abstractmethod
    def on_first_open(self, extension: Extension, opened: Opened, empty_store: Callable[[], UserStore]) -> None:
        """Called once, when the storage is opened for the first time.

        :param empty_store: makes a store that belongs to no visitor
        """

    @abstractmethod
    def ensure_sync(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A plain function that calls the given one, which may be a coroutine function."""

    def counts_as_use(self, setting: Callable[[Any], bool] | None) -> Callable[[], bool] | None:  # noqa: ARG002
        """A function that asks the setting of this name about the current request; None if :meth:`handler` asks it."""
        return None

    @abstractmethod
    def starts_session(self, setting: Callable[[Any], bool] | None) -> Callable[[Any], bool] | None:
        """A function that asks the setting of this name about a request, given its WSGI environ or ASGI scope."""

    def inherit(
        self,
        name: str,  # noqa: ARG002
        secrets: Sequence[bytes],  # noqa: ARG002
        imported: Any,  # noqa: ARG002
    ) -> Callable[[str], Inheritance | None] | None:
        """A function that finds the session of a cookie that Flask or Flask-Session has set; None without them.

        :param name: the cookie's name
        :param secrets: the app's secrets, the current one first
        :param imported: the app's ImportedSessions
        """
        return None
