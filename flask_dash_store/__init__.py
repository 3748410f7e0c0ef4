"""A store of its own for every visitor of a Flask or Dash app, kept on the server."""

from .dash_database import DashDatabase
from .errors import (
    ConfigurationError,
    InvalidKey,
    InvalidKeyType,
    InvalidTTL,
    NotANumber,
    NotASession,
    OutsideRequest,
    QuotaExceeded,
    ResponseStarted,
    SessionEnded,
    StorageBusy,
    StorageClosed,
    StorageCorrupt,
    StorageError,
    StorageFull,
    TamperedValue,
    UnreadableValue,
    UnstorableValue,
    UserStoreError,
    ValueTooLarge,
    WeakSecretKey,
)
from .middleware import UserStoreMiddleware
from .proxy import is_available, user_store
from .user_store import UserStore

__all__ = [
    "ConfigurationError",
    "DashDatabase",
    "InvalidKey",
    "InvalidKeyType",
    "InvalidTTL",
    "NotANumber",
    "NotASession",
    "OutsideRequest",
    "QuotaExceeded",
    "ResponseStarted",
    "SessionEnded",
    "StorageBusy",
    "StorageClosed",
    "StorageCorrupt",
    "StorageError",
    "StorageFull",
    "TamperedValue",
    "UnreadableValue",
    "UnstorableValue",
    "UserStore",
    "UserStoreError",
    "UserStoreMiddleware",
    "ValueTooLarge",
    "WeakSecretKey",
    "is_available",
    "user_store",
]
