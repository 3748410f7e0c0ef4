"""A private, server-side store for each visitor of a Flask or Dash app."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .dash_database import DashDatabase
from .errors import (
    ConfigurationError,
    InvalidKey,
    InvalidKeyType,
    InvalidTTL,
    LateSetting,
    NotAnAttribute,
    NotANumber,
    NotASession,
    NotEditable,
    OutsideCookiePath,
    OutsideRequest,
    QuotaExceeded,
    ResponseStarted,
    SessionEnded,
    SessionRefused,
    StorageBusy,
    StorageClosed,
    StorageCorrupt,
    StorageError,
    StorageFull,
    TamperedValue,
    TooManyKeys,
    UnknownFormat,
    UnreadableValue,
    UnstorableValue,
    UnsuitableFilesystem,
    UserStoreError,
    ValueTooLarge,
    WeakSecretKey,
)
from .health import Health
from .key import Key
from .middleware import UserStoreMiddleware
from .proxy import is_available, user_store, visitor
from .signals import session_ended, session_regenerated, session_started, user_logged_in
from .store.mapping import StoredValue
from .store.user_store import UserSession, UserStore

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .admin import UserStoreAdmin
    from .dash.changed import Changed
    from .dash.tab_store import tab_store

# These import Dash, which an app on Flask alone does not have.
_FROM_DASH = {"Changed": ".dash.changed", "UserStoreAdmin": ".admin", "tab_store": ".dash.tab_store"}


def __getattr__(name: str) -> Any:
    if name not in _FROM_DASH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_FROM_DASH[name], __name__), name)
    globals()[name] = value
    return value


__all__ = [
    "Changed",
    "ConfigurationError",
    "DashDatabase",
    "Health",
    "InvalidKey",
    "InvalidKeyType",
    "InvalidTTL",
    "Key",
    "LateSetting",
    "NotANumber",
    "NotASession",
    "NotAnAttribute",
    "NotEditable",
    "OutsideCookiePath",
    "OutsideRequest",
    "QuotaExceeded",
    "ResponseStarted",
    "SessionEnded",
    "SessionRefused",
    "StorageBusy",
    "StorageClosed",
    "StorageCorrupt",
    "StorageError",
    "StorageFull",
    "StoredValue",
    "TamperedValue",
    "TooManyKeys",
    "UnknownFormat",
    "UnreadableValue",
    "UnstorableValue",
    "UnsuitableFilesystem",
    "UserSession",
    "UserStore",
    "UserStoreAdmin",
    "UserStoreError",
    "UserStoreMiddleware",
    "ValueTooLarge",
    "WeakSecretKey",
    "is_available",
    "session_ended",
    "session_regenerated",
    "session_started",
    "tab_store",
    "user_logged_in",
    "user_store",
    "visitor",
]
