"""What the user store asks of an app, whichever framework it is made with."""

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
    """What an app knows of its extension once that is opened."""

    @property
    def settings(self) -> Settings: ...
    @property
    def handler(self) -> Any: ...
    @property
    def cookie_attributes(self) -> CookieAttributes: ...
    def open_store(self, handle: str) -> UserStore: ...


class Extension(Protocol):
    """What an app knows of its extension."""

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

    :ivar app: the app itself, which sends the signals; of a Dash app, its server
    :ivar has_config: whether its secrets are in a config of its own
    """

    app: Any
    has_config = True

    @property
    @abstractmethod
    def name(self) -> str:
        """What error messages call it."""

    @property
    @abstractmethod
    def import_name(self) -> str:
        """By what jobs in other processes find it, as Flask has it."""

    @property
    @abstractmethod
    def config(self) -> Mapping[str, Any]:
        """The settings that it has now."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder in which a file lies whose URL is relative."""

    @property
    def permanent_session_lifetime(self) -> timedelta:
        """For how long browsers keep the cookie of a permanent session of Flask."""
        return timedelta(0)

    @abstractmethod
    def paths(self, settings: Settings) -> tuple[str, str]:
        """The path under which the browser sees the app, and what of that path the app itself sees.

        A cookie's path has no slash at its end, so that browsers send it with that path itself, too (RFC 6265, 5.1.4).
        """

    @property
    @abstractmethod
    def has_dash(self) -> bool:
        """Whether a Dash app is on this server, whichever of the two the middleware was given."""

    @property
    @abstractmethod
    def is_installed(self) -> bool:
        """Whether it has a user store already."""

    @abstractmethod
    def install(self, middleware: Any, extension: Extension) -> None:
        """Have its requests come through :meth:`handler`, that of the opened extension."""

    @property
    @abstractmethod
    def entry(self) -> Callable[..., Awaitable[None]]:
        """The ASGI app with its store, to be served in the app's stead.

        :raises ConfigurationError: when it is no ASGI app
        """

    @abstractmethod
    def handler(self, sessions: RequestSessions, settings: Settings) -> Any:
        """What its requests go through."""

    @abstractmethod
    def apply(self, settings: Settings) -> None:
        """Do what a setting demands of the app itself.

        :raises ConfigurationError: when that is not possible
        """

    @abstractmethod
    def on_first_open(self, extension: Extension, opened: Opened, empty_store: Callable[[], UserStore]) -> None:
        """Called once, when the storage is opened for the first time.

        :param empty_store: makes one that belongs to no visitor
        """

    @abstractmethod
    def ensure_sync(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that calls one that may be a coroutine function."""

    def counts_as_use(self, setting: Callable[[Any], bool] | None) -> Callable[[], bool] | None:  # noqa: ARG002
        """The setting of this name, for the present request; None where :meth:`handler` sees to it."""
        return None

    @abstractmethod
    def starts_session(self, setting: Callable[[Any], bool] | None) -> Callable[[Any], bool] | None:
        """The setting of this name, for a request as the server has it: a WSGI environ, or an ASGI scope."""

    def inherit(
        self,
        name: str,  # noqa: ARG002
        secrets: Sequence[bytes],  # noqa: ARG002
        imported: Any,  # noqa: ARG002
    ) -> Callable[[str], Inheritance | None] | None:
        """What a cookie of this name that Flask, or Flask-Session, has made stands for; None where there is none.

        :param secrets: the app's secrets, the current one first
        :param imported: the ImportedSessions that cookies of Flask-Session may stand for
        """
        return None
