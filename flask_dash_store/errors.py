"""Every exception the package raises.

All of them derive from :class:`UserStoreError`. Where Python has an exception for the same fault (``TypeError``,
``ValueError``, ``TimeoutError``), they derive from that, too, so that code which does not know this package can catch
them. No message ever contains a session id or a stored value.
"""

from __future__ import annotations

from typing import Any

from werkzeug.exceptions import Conflict


class UserStoreError(Exception):
    """The base class of all errors of this package.

    :ivar key: the key that the call named; None if the error is not about a key
    :ivar limit: the limit that was exceeded, in the unit of its setting; None if the error is not about a limit
    :ivar used: how much of that limit was in use before the call; None if that is not known
    """

    def __init__(
        self, message: str = "", *, key: str | None = None, limit: float | None = None, used: int | None = None
    ) -> None:
        super().__init__(message)
        self.key = key
        self.limit = limit
        self.used = used


class ConfigurationError(UserStoreError, ValueError):
    """A setting is unknown or invalid, SECRET_KEY is missing, or the app already has a store."""


class WeakSecretKey(UserWarning):
    """SECRET_KEY is so short that it can be guessed."""


class LateSetting(UserWarning):
    """A setting was changed after the first request had read it, so the change has no effect."""


class OutsideRequest(UserStoreError, RuntimeError):
    """The store was used where there is no visitor, or a job called ``regenerate`` or ``destroy``."""


class OutsideCookiePath(UserStoreError, RuntimeError):
    """A view wrote to the store, but the browser never sends the session's cookie to the path of that view."""


class NotASession(UserStoreError, RuntimeError):
    """A method for sessions, such as ``regenerate``, was called on the store of a user id."""


class ResponseStarted(UserStoreError, RuntimeError):
    """``regenerate``, or a new visitor's first write, came after the response headers, which bring the session id."""


class SessionEnded(UserStoreError, Conflict):
    """The session was destroyed or regenerated, so it can no longer be written to.

    It happens to a request that is still running when its visitor logs in or out in another one. If a view does not
    catch it, Flask answers with 409 Conflict, and logs no traceback.

    :ivar ended_at: when the session ended, in seconds since the epoch
    """

    def __init__(self, ended_at: float) -> None:
        super().__init__(
            "This session has ended (destroy() or regenerate() was called on it, perhaps by a request in parallel), "
            "so nothing can be written to it. The browser's next request belongs to a session that can."
        )
        self.ended_at = ended_at

    def __str__(self) -> str:
        return str(self.description)

    def __reduce__(self) -> tuple[Any, ...]:
        return SessionEnded, (self.ended_at,)


class SessionRefused(UserStoreError, RuntimeError):
    """A request wrote to its store, but USER_STORE_STARTS_SESSION does not let it begin a session."""


class InvalidKey(UserStoreError, ValueError):
    """A key, a user id, a session id or a job handle has the right type, but not a valid text."""


class InvalidKeyType(UserStoreError, TypeError):
    """A key or a user id has the wrong type."""


class InvalidTTL(UserStoreError, ValueError):
    """A TTL is not a positive number of seconds or a positive timedelta, or is longer than a century."""


class UnstorableValue(UserStoreError, TypeError):
    """The value cannot be serialized. What was stored under the key is still there."""


class UnreadableValue(UserStoreError):
    """The stored value is authentic but cannot be loaded, because its class is gone or has changed."""


class TamperedValue(UserStoreError):
    """The stored bytes were not written by this app for this owner and key."""


class NotANumber(UserStoreError, TypeError):
    """``increment`` found something other than a number under the key."""


class NotEditable(UserStoreError, TypeError):
    """``edit`` found a value that cannot be changed in place, such as a number or a text."""


class NotAnAttribute(UserStoreError, AttributeError):
    """An attribute of a store was set. Values are stored under keys: ``store[key] = value``."""


class ValueTooLarge(UserStoreError, ValueError):
    """The value is larger than the limit for one value. What was stored under the key is still there."""


class QuotaExceeded(UserStoreError):
    """The values of the session or user would together be larger than their limit. Nothing has changed."""


class TooManyKeys(UserStoreError):
    """The session or user would have more keys than the limit. Nothing has changed."""


class StorageError(UserStoreError):
    """The storage failed; the message says how."""


class StorageBusy(StorageError, TimeoutError):
    """Another writer held a lock of the storage for longer than the timeout. Nothing has changed."""


class StorageFull(StorageError):
    """The disk is full, or the file has reached its size limit. Nothing has changed."""


class StorageCorrupt(StorageError):
    """The file is damaged, or is not a database. It is left unchanged."""


class StorageClosed(StorageError):
    """The storage has been closed, or is in the memory of the process from which this one was forked."""


class UnknownFormat(StorageError):
    """The file was written by another version of this package, or by another program. It is left unchanged."""


class UnsuitableFilesystem(StorageError):
    """The file is on a file system without the locks and the shared memory that SQLite's WAL mode needs."""
