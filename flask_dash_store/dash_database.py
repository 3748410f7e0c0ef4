"""DashDatabase: values by an explicit user id, no request and no Flask needed.

It has the methods of the package dash_database and their behaviour, without its faults: whatever the user ids are, no
user sees another's keys, and no call looks at another user's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Literal, Self

from .codec import PickleCodec
from .errors import ConfigurationError, InvalidKey, InvalidKeyType
from .expiry import Clock, ExpiryPolicy, seconds, wall_clock
from .maintenance import Maintenance
from .owner import DEFAULT_MAX_KEY_LENGTH, USER_PREFIX, user_id_of, user_owner
from .storage.memory import MemoryStorage
from .storage.sqlite import SqliteStorage
from .store.base import StoreContext
from .store.mapping import StoredMapping
from .store.session_state import SessionState


class DashDatabase:
    """Keeps any picklable value by user id and key name, for any thread of any process.

    :param db_location: a path keeps the values in a file; ``":memory:"`` keeps them in this process's memory; None
        keeps them in a temporary file, which is deleted when the database is closed or the process ends
    :param ttl: idle seconds, or a timedelta, after which a user's values are gone; None keeps them until they are
        deleted
    :param secret_key: authenticates the values: none is unpickled unless this key wrote it. Without it anyone who can
        write to the file can run code in this process. A sequence of keys rotates them: the first one writes, all
        of them read.
    :param clock: gives seconds since the epoch; for tests
    :raises ConfigurationError: when ``secret_key`` is empty
    :raises InvalidTTL: when ``ttl`` is not longer than zero
    :raises StorageError: when the file cannot be opened

    User ids and key names are str or int; an int is the same as its decimal text. Each method raises
    :class:`~flask_dash_store.errors.InvalidKeyType`, a TypeError, for any other type, and
    :class:`~flask_dash_store.errors.StorageError` when the storage fails or the database has been closed.
    """

    def __init__(
        self,
        db_location: str | PathLike[str] | None = ":memory:",
        *,
        ttl: float | timedelta | None = None,
        secret_key: str | bytes | Sequence[str | bytes] | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        location = None if db_location is None else fspath(db_location)
        self._storage = MemoryStorage() if location == ":memory:" else SqliteStorage(location)
        self._context = StoreContext(
            self._storage,
            PickleCodec(_secrets(secret_key)),
            ExpiryPolicy(None if ttl is None else seconds(ttl), clock),
        )
        self._maintenance = Maintenance(self._context, USER_PREFIX)

    def __repr__(self) -> str:
        filename = self._storage.filename if isinstance(self._storage, SqliteStorage) else ":memory:"
        return f'{type(self).__name__} at "{filename}"'

    def store_user_value(
        self, user_id: str | int, key_name: str | int, value: Any, ttl: float | timedelta | None = None
    ) -> None:
        """Store any picklable value, in place of the one that was stored under the key, if any.

        :param user_id: at most 512 characters; an int is the same user as its decimal text
        :param key_name: at most 512 characters; an int is the same key as its decimal text
        :param value: what is stored, as a copy
        :param ttl: seconds, or a timedelta, after which this key is gone; None for as long as the user's values stay
        :raises UnstorableValue: when the value cannot be pickled; what was stored is still there
        :raises ValueTooLarge: when it takes more than 512 MiB
        :raises QuotaExceeded: when the user's values together would take more than 1 GiB
        :raises TooManyKeys: when the user would have more than 10,000 keys
        :raises InvalidKey: when the user id or the key name is too long, or holds a lone surrogate
        :raises InvalidTTL: when ``ttl`` is not longer than zero
        """
        self._user(user_id).set(_name(key_name), value, ttl)
        if self._maintenance.is_due(self._context.expiry.clock(), was_written=True):
            self._maintenance.run()

    def get_user_value(self, user_id: str | int, key_name: str | int) -> Any:
        """The value under the key; None when there is none.

        :param user_id: as it was stored
        :param key_name: as it was stored
        :raises TamperedValue: when the stored bytes were not written with one of the secret keys
        :raises UnreadableValue: when the class of the value has gone or has changed
        """
        return self._user(user_id).get(_name(key_name))

    def delete_user_value(
        self, user_id: str | int, key_name: str | int, if_not_exists: Literal["ignore", "raise"] = "ignore"
    ) -> None:
        """Delete the key.

        :param user_id: as it was stored
        :param key_name: as it was stored
        :param if_not_exists: what to do when there is no such key: ``"ignore"`` it, or ``"raise"`` a KeyError
        :raises ValueError: when ``if_not_exists`` is another word
        """
        if if_not_exists not in ("ignore", "raise"):
            raise ValueError(f'if_not_exists must be either "ignore" or "raise", not {if_not_exists!r}')
        try:
            del self._user(user_id)[_name(key_name)]
        except KeyError:
            if if_not_exists == "raise":
                raise

    def delete_all_user_values(self, user_id: str | int) -> None:
        """Delete all keys of the user. There need not be any.

        :param user_id: as it was stored
        """
        self._user(user_id).clear()

    def list_stored_user_keys(self, user_id: str | int) -> list[str]:
        """The user's key names, first stored first; an empty list when there are none.

        :param user_id: as it was stored
        """
        return list(self._user(user_id))

    def users(self) -> list[str]:
        """The ids, as text, of all users who have values."""
        access = self._context.expiry.access()
        return [user_id_of(name) for name in self._storage.owners(USER_PREFIX, access)]

    def purge(self) -> int:
        """Remove what has expired, which storing does too now and then. Returns how many users were removed."""
        return self._maintenance.run_to_the_end()

    def close(self) -> None:
        """Close the database, and delete it if it is temporary. Any later call raises StorageClosed."""
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _user(self, user_id: str | int) -> StoredMapping:
        return _UserValues(self._context, SessionState(user_owner(user_id)))


class _UserValues(StoredMapping):
    """Takes any text as a key, as dash_database does: file names, URLs, even the empty text."""

    @staticmethod
    def _check_key(key: object, max_length: int = DEFAULT_MAX_KEY_LENGTH) -> str:
        name = str(key)
        if len(name) > max_length:
            raise InvalidKey(f"A key name has at most {max_length} characters, this one {len(name)}.", limit=max_length)
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise InvalidKey(f"The key name {name!a} holds a lone surrogate, which no encoding can store.", key=name)
        return name


def _name(key_name: object) -> str:
    if not isinstance(key_name, (str, int)):
        raise InvalidKeyType(f"A key name is a str or an int, not {type(key_name).__name__}.")
    return str(key_name)


def _secrets(secret_key: str | bytes | Sequence[str | bytes] | None) -> list[bytes]:
    if secret_key is None:
        return []
    keys = [secret_key] if isinstance(secret_key, (str, bytes)) else list(secret_key)
    if not keys or not all(keys):
        raise ConfigurationError("secret_key= is empty; None keeps values that are not authenticated.")
    return [key.encode() if isinstance(key, str) else key for key in keys]
