"""Every exception the package raises.

All of them are a :class:`UserStoreError`. Where Python has an exception for the fault (``TypeError``, ``ValueError``,
``TimeoutError``), they are that too, so that code which knows nothing of this package still handles them well.
No message ever holds a session id or a stored value.
"""

from __future__ import annotations

from typing import Any

from werkzeug.exceptions import Conflict


class UserStoreError(Exception):
    """The base class of all errors of this package.

    :ivar key: the key of the store that the call named; None where the error is not about one
    :ivar limit: the limit that was met, in the unit of its setting; None where there is none
    :ivar used: how much of that limit was in use before the call; None where that is not known
    """

    def __init__(
        self, message: str = "", *, key: str | None = None, limit: float | None = None, used: int | None = None
    ) -> None:
        super().__init__(message)
        self.key = key
        self.limit = limit
        self.used = used


class ConfigurationError(UserStoreError, ValueError):
    """An option is unknown or cannot be used, SECRET_KEY is missing, or the app has a store already."""


class WeakSecretKey(UserWarning):
    """SECRET_KEY is so short that it can be guessed."""


class LateSetting(UserWarning):
    """A setting was changed after the first request, which has read it, so the change has no effect."""


class OutsideRequest(UserStoreError, RuntimeError):
    """The visitor was asked for where there is none; or a job called ``regenerate`` or ``destroy``."""


class OutsideCookiePath(UserStoreError, RuntimeError):
    """A view wrote to the store under a path to which the browser never sends the session's cookie."""


class NotASession(UserStoreError, RuntimeError):
    """What is for a session, such as ``regenerate``, was called on a store that belongs to a user id."""


class ResponseStarted(UserStoreError, RuntimeError):
    """The response could no longer bring the browser its session id: the next one, or that of a first write."""


class SessionEnded(UserStoreError, Conflict):
    """The session was destroyed or regenerated, so nothing can be written to it any more.

    Flask answers a view that does not catch it with 409 Conflict, and logs no traceback: it is what happens to a
    request in flight when its visitor logs in or out in another one.

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
    """A write for a request that may begin no session, as USER_STORE_STARTS_SESSION has it."""


class InvalidKey(UserStoreError, ValueError):
    """A key, a user id, a session id or a job's handle of the right type whose text cannot be used."""


class InvalidKeyType(UserStoreError, TypeError):
    """A key or a user id of another type than the call takes."""


class InvalidTTL(UserStoreError, ValueError):
    """A TTL that is not a positive number of seconds or a positive timedelta, or is longer than a century."""


class UnstorableValue(UserStoreError, TypeError):
    """The value cannot be turned into bytes; what was stored under the key is still there."""


class UnreadableValue(UserStoreError):
    """The stored value is authentic but cannot be turned back, because its class is gone or has changed."""


class TamperedValue(UserStoreError):
    """The stored bytes were not written by this app for this owner and key."""


class NotANumber(UserStoreError, TypeError):
    """``increment`` found something other than a number under the key."""


class NotAnAttribute(UserStoreError, AttributeError):
    """An attribute of a store was set, where a value is stored under a key."""


class ValueTooLarge(UserStoreError, ValueError):
    """The value is larger than one value may be; what was stored under the key is still there."""


class QuotaExceeded(UserStoreError):
    """The owner's values together would be larger than they may be; nothing has changed."""


class TooManyKeys(UserStoreError):
    """The owner would have more keys than it may; nothing has changed."""


class StorageError(UserStoreError):
    """The storage failed; the message says how."""


class StorageBusy(StorageError, TimeoutError):
    """Another writer held a lock of the storage for longer than the timeout; nothing has changed."""


class StorageFull(StorageError):
    """The disk, or the file's size limit, is full; nothing has changed."""


class StorageCorrupt(StorageError):
    """The file is damaged or is not a database. It is left as it is."""


class StorageClosed(StorageError):
    """The storage has been closed, or lived in the memory of the process this one was forked from."""


class UnknownFormat(StorageError):
    """The file was written by another version of this package, or by another program. It is left as it is."""


class UnsuitableFilesystem(StorageError):
    """The file lies on a file system without the locks and the shared memory that SQLite's WAL mode needs."""
