"""The values of one owner, as a mapping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from numbers import Number
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar, overload

from ..buffers import Stored
from ..errors import NotAnAttribute, NotANumber, NotEditable, SessionEnded, UnstorableValue, UserStoreError
from ..expiry import Access, seconds
from ..owner import Owner
from ..storage.base import KeyExpiry, ValueInfo
from .base import StoreBase, write_listeners
from .session_state import Use
from .views import MISSING, SnapshotMapping, as_snapshot

T = TypeVar("T")

KEYS_SHOWN = 10

_IMMUTABLE = frozenset({bool, int, float, complex, str, bytes})


@dataclass(frozen=True)
class StoredValue:
    """What :meth:`UserStore.describe` returns for each value, without reading it.

    :ivar key: the key under which it is stored
    :ivar nbytes: how many bytes it takes, including its key
    :ivar kind: ``"large"`` if its data are stored apart from the other values, as those of large arrays are, else
        ``"small"``
    :ivar expires_at: when the key's own TTL ends, in UTC; None if it has no TTL of its own
    """

    key: str
    nbytes: int
    kind: Literal["small", "large"]
    expires_at: datetime | None

    @classmethod
    def of(cls, info: ValueInfo) -> StoredValue:
        """The public form of what a storage knows of a value."""
        expires_at = None if info.expires is None else datetime.fromtimestamp(info.expires, UTC)
        return cls(info.key, info.nbytes, "large" if info.is_large else "small", expires_at)


class StoredMapping(StoreBase, SnapshotMapping):
    """A dict whose values are in a storage, for one owner.

    :param context: what it shares with the app's other stores
    :param state: the owner, and what the request has done with the session
    """

    def __setattr__(self, name: str, value: Any) -> None:
        raise NotAnAttribute(
            f"A store has no attribute {name!r} that can be set. To store a value, use store[{name!r}] = value, which "
            f"stores it at once. To change a value in place, use `with store.edit(key) as value:`."
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.owner.name[:10]}… {self._keys_for_repr()}>"

    def _keys_for_repr(self) -> str:
        """Some of the keys, for repr(). It does not count as a use of the session, and does not raise."""
        access = self._context.expiry.access(counts_as_use=False)
        try:
            keys = self._storage.keys(self._state.owner, access, KEYS_SHOWN + 1)
        except SessionEnded:
            return "ended"
        except UserStoreError as error:
            return type(error).__name__
        keys = self._visible(keys)
        return f"[{', '.join(map(repr, keys[:KEYS_SHOWN]))}{', …' if len(keys) > KEYS_SHOWN else ''}]"

    # Reading

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """The value under the key, as a copy.

        :param key: a str of 1 to 512 characters
        :param default: what is returned if nothing is stored under the key
        :raises InvalidKey: if the key is not valid
        :raises InvalidKeyType: if the key is not a str
        :raises TamperedValue: if this app did not write the stored bytes for this store and key
        :raises UnreadableValue: if the class of the value is gone or has changed
        """
        self._check_key(key, self._context.max_key_length)
        try:
            owner = self._state.owner
            stored = self._storage.get(owner, key, self._access())
        except SessionEnded as ended:
            return self.get(key, default) if self._recover(ended) else default
        return default if stored is None else self._codec.decode(owner.name, key, stored)

    def __contains__(self, key: object) -> bool:
        checked = self._check_key(key, self._context.max_key_length)
        return self._read(lambda owner, access: self._storage.has(owner, checked, access), False)

    def __len__(self) -> int:
        return self._stat().keys

    def copy(self) -> dict[str, Any]:
        """All keys and values at one point in time, as a plain dict.

        :returns: a dict, which is empty if nothing is stored
        :raises TamperedValue: if this app did not write one of the values for this store and its key
        :raises UnreadableValue: if the class of one of the values is gone or has changed
        """
        none: tuple[Owner, list[tuple[str, Stored]]] = (self._state.owner, [])
        owner, stored = self._read(lambda owner, access: (owner, self._storage.items(owner, access)), none)
        shown = set(self._visible([key for key, _ in stored]))
        return {key: self._codec.decode(owner.name, key, value) for key, value in stored if key in shown}

    def __reduce__(self) -> NoReturn:
        raise UnstorableValue(
            "A store cannot be pickled, because it uses a connection. Pickle store.copy(), a dict; or pass "
            "store.job_handle(), and open the store there with middleware.open(handle)."
        )

    # Writing. In addition to its docstring, each of these raises UnstorableValue, ValueTooLarge, QuotaExceeded,
    # TooManyKeys, InvalidKey, InvalidKeyType, SessionEnded and StorageError. UserStore's docstring says when.

    def __setitem__(self, key: str, value: Any) -> None:
        stored = self._encode(key, value)
        try:
            self._storage.set(self._state.owner, key, stored, self._write_access())
        except SessionEnded as ended:
            if not self._recover(ended):
                raise
            self[key] = value
        else:
            if write_listeners:
                self._notify((key,))

    def set(self, key: str, value: Any, ttl: float | timedelta | None = None) -> None:
        """Store a value, for a limited time if ``ttl`` is given.

        :param key: a str of 1 to 512 characters
        :param value: any value that can be pickled; with ``codec="json"``, any value that JSON can represent
        :param ttl: time, in seconds or as a timedelta, after which the key expires, however often it is used; None
            keeps it for as long as the session keeps its values
        :raises InvalidTTL: if ``ttl`` is not positive, or is longer than a century
        """
        duration = None if ttl is None else seconds(ttl)
        self._set(key, value, lambda access: None if duration is None else access.now + duration)

    def expire(self, key: str, ttl: float | timedelta | None) -> None:
        """Set or remove the TTL of a key that is already stored.

        :param key: a key of the store
        :param ttl: time from now, in seconds or as a timedelta; None removes the TTL
        :raises KeyError: if there is no such key
        :raises InvalidTTL: if ``ttl`` is not positive, or is longer than a century
        """
        self._check_key(key, self._context.max_key_length)
        duration = None if ttl is None else seconds(ttl)

        def expire(owner: Owner, access: Access) -> bool:
            expires = None if duration is None else access.now + duration
            return self._storage.expire(owner, key, expires, access)

        if not self._write(expire):
            raise KeyError(key)

    def __delitem__(self, key: str) -> None:
        self._check_key(key, self._context.max_key_length)
        if not self._write(lambda owner, access: self._storage.delete(owner, key, access), (key,)):
            raise KeyError(key)

    @overload
    def pop(self, key: str) -> Any: ...
    @overload
    def pop(self, key: str, default: T) -> Any | T: ...
    def pop(self, key: str, default: Any = MISSING) -> Any:
        """Remove the key and return its value.

        :param key: a str of 1 to 512 characters
        :param default: what is returned if there is no such key
        :raises KeyError: if there is no such key and no ``default`` is given
        :raises TamperedValue: as in :meth:`get`; the key stays
        :raises UnreadableValue: as in :meth:`get`; the key stays
        """
        self._check_key(key, self._context.max_key_length)
        while True:
            # A large value is read and decoded before the lock is acquired, and then removed if it is unchanged.
            owner, stored = self._stored(key)
            if stored is None:
                break
            value = self._codec.decode(owner.name, key, stored)
            if self._delete_if_unchanged(owner, key, stored):
                return value
        if default is MISSING:
            raise KeyError(key)
        return default

    def _delete_if_unchanged(self, owner: Owner, key: str, stored: Stored, only_last: bool = False) -> bool:
        """Delete the key if its value has not been replaced. Returns whether it was deleted.

        :param stored: the value that was read. Its payload, with MAC and name of buffers, identifies it.
        :param only_last: whether the key must also be the one that was inserted last
        """
        with self.transaction():
            if only_last and self._keys(1, newest_first=True) != [key]:
                return False
            access = self._write_access()
            present = self._storage.get(owner, key, access)
            if present is None or present[0] != stored[0] or not self._storage.delete(owner, key, access):
                return False
            if write_listeners:
                self._notify((key,))
            return True

    def popitem(self) -> tuple[str, Any]:
        """Remove the key that was inserted last, and return it with its value.

        :returns: the key and its value
        :raises KeyError: if the store is empty
        :raises TamperedValue: as in :meth:`get`; the key stays
        :raises UnreadableValue: as in :meth:`get`; the key stays
        """
        while keys := self._keys(1, newest_first=True):  # In the same steps as pop().
            key = keys[0]
            owner, stored = self._stored(key)
            if stored is not None:
                value = self._codec.decode(owner.name, key, stored)
                if self._delete_if_unchanged(owner, key, stored, only_last=True):
                    return key, value
        raise KeyError("popitem(): the user store is empty")

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value under the key. If there is none, ``default`` is stored first.

        :param key: a str of 1 to 512 characters
        :param default: any value that can be stored; it is ignored if the key has a value
        :returns: a copy of the stored value, or ``default`` itself
        """
        while (value := self.get(key, MISSING)) is MISSING:
            stored = self._encode(key, default)
            with self.transaction():
                if key not in self:
                    self._write(lambda owner, access: self._storage.set(owner, key, stored, access), (key,))  # noqa: B023
                    return default
        return value

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set several keys at once: all of them, or none if an error is raised.

        :param other: a mapping, or an iterable of pairs of key and value
        :param more: further keys and values
        """
        items: dict[str, Any] = {}
        items.update(as_snapshot(other), **more)
        if items:
            self._update(items)

    def _update(self, items: dict[str, Any]) -> None:
        stored = [(key, self._encode(key, value)) for key, value in items.items()]
        try:
            self._storage.set_all(self._state.owner, stored, self._write_access())
        except SessionEnded as ended:
            if not self._recover(ended):
                raise
            self._update(items)
        else:
            if write_listeners:
                self._notify(items.keys())

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc, override]  # a dict's |= takes pairs too, its | does not
        self.update(other)
        return self

    def clear(self) -> None:
        """Remove all keys, and the values in the ``tab_store`` of each of the visitor's tabs. The session continues."""
        self._write(self._storage.clear, None)

    def increment(self, key: str, by: float = 1) -> Any:
        """Add to a number atomically. If the key has a TTL, it stays.

        :param key: a str of 1 to 512 characters
        :param by: what is added
        :returns: the sum; a missing key counts as 0
        :raises NotANumber: if the stored value is not a number, or ``by`` cannot be added to it
        """
        self._check_key(key, self._context.max_key_length)
        with self.transaction():
            owner, stored = self._stored(key)
            if stored is None or stored[1] is None:
                number = 0 if stored is None else self._codec.decode(owner.name, key, stored)
                return self._add(key, number, by)
        # A value with buffers is most likely not a number. Read it outside of the transaction: other writers need not
        # wait.
        self._check_number(key, self.get(key, 0))
        with self.transaction():
            return self._add(key, self.get(key, 0), by)

    def _add(self, key: str, number: Any, by: float) -> Any:
        self._check_number(key, number)
        try:
            total = number + by
        except TypeError as error:
            raise NotANumber(
                f"increment({key!r}): a {type(by).__name__} cannot be added to a {type(number).__name__}.", key=key
            ) from error
        self._set(key, total, _keep)
        return total

    def _check_number(self, key: str, value: object) -> None:
        if not isinstance(value, Number):
            raise NotANumber(
                f"increment({key!r}): the stored value is a {type(value).__name__}, not a number.", key=key
            )

    @contextmanager
    def edit(self, key: str, default: Any = MISSING) -> Iterator[Any]:
        """Change a value in place: ``with store.edit("cart", []) as cart: cart.append(item)``.

        The block is a transaction. When it ends, the value is written back; if it raises, the stored value is kept. If
        the key has a TTL, it stays. An assignment to the variable has no effect: for a value that cannot be changed in
        place, such as a number, use :meth:`transaction` or :meth:`increment`. Other writers wait while the value is
        read, changed and written, so assign a large value as a whole instead.

        :param key: a str of 1 to 512 characters
        :param default: the value to start with if there is no such key
        :returns: a context manager that gives the value
        :raises KeyError: if there is no such key and no ``default`` is given
        :raises NotEditable: on entering, if the value is a number, a str or bytes
        :raises StorageBusy: on entering, if other writers hold the lock for longer than USER_STORE_TIMEOUT
        """
        with self.transaction():
            value = self.get(key, default)
            if value is MISSING:
                raise KeyError(key)
            if type(value) in _IMMUTABLE:
                raise NotEditable(
                    f"edit({key!r}): a value of type {type(value).__name__} cannot be changed in place. "
                    "Assign the new value inside `with store.transaction():`, or use increment() for a number.",
                    key=key,
                )
            yield value
            self._set(key, value, _keep)

    def transaction(self) -> AbstractContextManager[Self]:
        """A block whose reads and writes are atomic together: no other request writes to this store meanwhile.

        An exception that leaves the block rolls all of it back. Blocks can be nested; an inner block is a savepoint,
        which can be rolled back alone. Keep the block short, because other writers wait, with SQLite those of all
        stores. Do not ``await`` in it.

        :returns: a context manager that gives the store
        :raises StorageBusy: on entering, if other writers hold the lock for longer than USER_STORE_TIMEOUT
        """
        self._state.use = self._state.use or Use.READ
        return _Block(self, self._storage.transaction(self._state.owner))

    # What is stored

    @property
    def expires_at(self) -> datetime | None:
        """When the values expire if they are not used before, in UTC.

        None if nothing is stored, or if the values are kept until they are deleted.
        """
        expires = self._stat().expires
        return None if expires is None or math.isinf(expires) else datetime.fromtimestamp(expires, UTC)

    @property
    def nbytes(self) -> int:
        """How many bytes all keys and values take; USER_STORE_MAX_BYTES is the limit."""
        return self._stat().nbytes

    def describe(self) -> list[StoredValue]:
        """List what is stored, without reading it: each key with its size, its kind and its own expiry.

        It does not count as a use of the session, so it does not keep it alive.

        :returns: one entry for each key, in the order of insertion; an empty list if nothing is stored
        """
        described: list[ValueInfo] = self._read(self._storage.describe, [])
        shown = set(self._visible([info.key for info in described]))
        return [StoredValue.of(info) for info in described if info.key in shown]


class _Block(AbstractContextManager["Any"]):
    """A storage's transaction as a block that gives the store.

    A class, because a generator of contextlib would add frames to each call.
    """

    def __init__(self, store: StoredMapping, block: AbstractContextManager[object]) -> None:
        self._store = store
        self._block = block

    def __enter__(self) -> Any:
        self._block.__enter__()
        return self._store

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._block.__exit__(kind, error, traceback)


def _keep(access: Access) -> KeyExpiry:  # noqa: ARG001
    return "keep"
