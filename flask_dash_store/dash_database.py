"""DashDatabase: values under explicit user ids, without a request and without Flask.

It has the methods and the behaviour of the package dash_database, but keeps users apart: whatever their ids are, no
user sees another's keys, and no call reads another user's rows.
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
    """Stores any picklable value by user id and key name, for all threads and processes.

    :param db_location: the path of a file; ``":memory:"`` for this process's memory; or None for a temporary file,
        which is deleted when the database is closed or the process ends
    :param ttl: idle time, in seconds or as a timedelta, after which a user's values are deleted; None keeps them until
        you delete them
    :param secret_key: signs the values, and a value is unpickled only if its signature is valid. Without a key, anyone
        who can write to the file can run code in this process. Pass a sequence to rotate keys: the first key signs, and
        signatures of all keys are valid.
    :param clock: a function that returns seconds since the epoch, for tests
    :raises ConfigurationError: if ``secret_key`` is empty
    :raises InvalidTTL: if ``ttl`` is not positive, or is longer than a century
    :raises StorageError: if the file cannot be opened

    User ids and key names are str or int; an int is the same as its decimal text. Each method raises
    :class:`~flask_dash_store.errors.InvalidKeyType`, a TypeError, for any other type, and
    :class:`~flask_dash_store.errors.StorageError` if the storage fails or the database has been closed.
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
        """Store a value. It replaces the value that was stored under the key, if any.

        :param user_id: at most 512 characters; an int is the same user as its decimal text
        :param key_name: at most 512 characters; an int is the same key as its decimal text
        :param value: any value that can be pickled; a copy is stored
        :param ttl: time, in seconds or as a timedelta, after which this key expires; None keeps it for as long as the
            user's values are kept
        :raises UnstorableValue: if the value cannot be pickled; the former value is kept
        :raises ValueTooLarge: if it takes more than 512 MiB
        :raises QuotaExceeded: if the user's values together would take more than 1 GiB
        :raises TooManyKeys: if the user would have more than 10,000 keys
        :raises InvalidKey: if the user id or the key name is too long, or contains a lone surrogate
        :raises InvalidTTL: if ``ttl`` is not positive, or is longer than a century
        """
        self._user(user_id).set(_name(key_name), value, ttl)
        if self._maintenance.is_due(self._context.expiry.clock(), was_written=True):
            self._maintenance.run()

    def get_user_value(self, user_id: str | int, key_name: str | int) -> Any:
        """The value under the key.

        :param user_id: the user's id
        :param key_name: the name of the key
        :returns: a copy of the value; None if there is none
        :raises TamperedValue: if the stored bytes were not signed with one of the secret keys
        :raises UnreadableValue: if the class of the value is gone or has changed
        """
        return self._user(user_id).get(_name(key_name))

    def delete_user_value(
        self, user_id: str | int, key_name: str | int, if_not_exists: Literal["ignore", "raise"] = "ignore"
    ) -> None:
        """Delete the key.

        :param user_id: the user's id
        :param key_name: the name of the key
        :param if_not_exists: what to do if there is no such key: ``"ignore"`` it, or ``"raise"`` a KeyError
        :raises KeyError: if there is no such key and ``if_not_exists`` is ``"raise"``
        :raises ValueError: if ``if_not_exists`` is neither ``"ignore"`` nor ``"raise"``
        """
        if if_not_exists not in ("ignore", "raise"):
            raise ValueError(f'if_not_exists must be either "ignore" or "raise", not {if_not_exists!r}')
        try:
            del self._user(user_id)[_name(key_name)]
        except KeyError:
            if if_not_exists == "raise":
                raise

    def delete_all_user_values(self, user_id: str | int) -> None:
        """Delete all keys of the user. If there are none, do nothing.

        :param user_id: the user's id
        """
        self._user(user_id).clear()

    def list_stored_user_keys(self, user_id: str | int) -> list[str]:
        """The names of the user's keys.

        :param user_id: the user's id
        :returns: the names, in the order in which the keys were first stored; an empty list if there are none
        """
        return list(self._user(user_id))

    def users(self) -> list[str]:
        """The ids, as str, of all users who have values; an empty list if there are none."""
        access = self._context.expiry.access()
        return [user_id_of(name) for name in self._storage.owners(USER_PREFIX, access)]

    def purge(self) -> int:
        """Remove everything that has expired. Storing a value also does this from time to time, a little at a time.

        :returns: how many users were removed
        """
        return self._maintenance.run_to_the_end()

    def close(self) -> None:
        """Close the database, and delete its file if it is temporary. Any later call raises StorageClosed."""
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
    """Accepts any text as a key, as dash_database does: file names, URLs, even the empty string."""

    @staticmethod
    def _check_key(key: object, max_length: int = DEFAULT_MAX_KEY_LENGTH) -> str:
        name = str(key)
        if len(name) > max_length:
            raise InvalidKey(
                f"A key name must have at most {max_length} characters; this one has {len(name)}.", limit=max_length
            )
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise InvalidKey(f"The key name {name!a} contains a lone surrogate, which cannot be encoded.", key=name)
        return name


def _name(key_name: object) -> str:
    if not isinstance(key_name, (str, int)):
        raise InvalidKeyType(f"A key name must be a str or an int, not {type(key_name).__name__}.")
    return str(key_name)


def _secrets(secret_key: str | bytes | Sequence[str | bytes] | None) -> list[bytes]:
    if secret_key is None:
        return []
    keys = [secret_key] if isinstance(secret_key, (str, bytes)) else list(secret_key)
    if not keys or not all(keys):
        raise ConfigurationError(
            "secret_key= is empty. Pass a key, or None to store values that are not authenticated."
        )
    return [key.encode() if isinstance(key, str) else key for key in keys]
