"""The values of one owner, as a mapping."""

from __future__ import annotations

import math
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from numbers import Number
from typing import Any, Final, Self, TypeVar, overload

from .buffers import Stored
from .codec import Codec
from .errors import NotANumber, SessionEnded, ValueTooLarge
from .expiry import Access, ExpiryPolicy, seconds
from .keys import DEFAULT_MAX_KEY_LENGTH, check_key
from .storage import Storage
from .storage.base import KeyExpiry
from .trace import Trace
from .views import Items, Keys, Values

T = TypeVar("T")

DEFAULT_MAX_VALUE_BYTES = 512 * 2**20

_MISSING: Final = object()


@dataclass(frozen=True)
class Backend:
    """What all stores of an app share: where values are kept, in which form, for how long, and within which limits.

    ``max_key_length`` counts characters, ``max_value_bytes`` the bytes of an encoded value.
    """

    storage: Storage
    codec: Codec
    expiry: ExpiryPolicy
    max_key_length: int = DEFAULT_MAX_KEY_LENGTH
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES


class StoredMapping(MutableMapping[str, Any]):
    """A dict whose values lie in a storage, for one owner."""

    def __init__(self, backend: Backend, owner: str, trace: Trace) -> None:
        self._backend = backend
        self._storage = backend.storage
        self._codec = backend.codec
        self._owner = owner
        self._trace = trace

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._owner[:10]}…>"

    # Reading

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """The value under the key; ``default`` when there is none."""
        self._check_key(key)
        try:
            stored = self._storage.get(self._owner, key, self._access())
        except SessionEnded as ended:
            self._trace.ended_at = ended.ended_at
            return default
        return default if stored is None else self._codec.decode(self._owner, key, *stored)

    def __contains__(self, key: object) -> bool:
        checked = self._check_key(key)
        return self._reading(lambda access: self._storage.has(self._owner, checked, access), False)

    def __len__(self) -> int:
        return self._reading(lambda access: self._storage.count(self._owner, access), 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys())

    def keys(self) -> KeysView[str]:
        """A view of the keys, first inserted first."""
        return Keys(self)

    def values(self) -> ValuesView[Any]:
        """A view of the values, in the order of the keys."""
        return Values(self)

    def items(self) -> ItemsView[str, Any]:
        """A view of the pairs of key and value, in the order of the keys."""
        return Items(self)

    def copy(self) -> dict[str, Any]:
        """All keys and values as they are at one point in time, as a dict of their own."""
        rows: list[tuple[str, Stored]] = self._reading(lambda access: self._storage.items(self._owner, access), [])
        return {key: self._codec.decode(self._owner, key, *stored) for key, stored in rows}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.copy() == dict(_at_one_time(other))

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.copy() | dict(_at_one_time(other))

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(other) | self.copy()

    @classmethod
    def fromkeys(cls, keys: Iterable[str], value: Any = None) -> dict[str, Any]:
        """A dict with these keys. It is not a store, for a store belongs to a visitor."""
        return dict.fromkeys(keys, value)

    # Writing

    def __setitem__(self, key: str, value: Any) -> None:
        self._write(key, value, None)

    def set(self, key: str, value: Any, ttl: float | timedelta | None = None) -> None:
        """Store a value, for a limited time if ``ttl`` is given.

        :param ttl: seconds or a timedelta after which the key is gone, however often it is used; None for as long
            as the session keeps its values
        :raises InvalidTTL: when ``ttl`` is not longer than zero
        """
        self._write(key, value, None if ttl is None else seconds(ttl))

    def expire(self, key: str, ttl: float | timedelta | None) -> None:
        """Limit how long a key that is stored already is kept.

        :param ttl: seconds or a timedelta from now; None lifts the limit
        :raises KeyError: when there is no such key
        :raises InvalidTTL: when ``ttl`` is not longer than zero
        """
        self._check_key(key)
        duration = None if ttl is None else seconds(ttl)

        def expire(access: Access) -> bool:
            expires = None if duration is None else access.now + duration
            return self._storage.expire(self._owner, key, expires, access)

        if not self._writing(expire):
            raise KeyError(key)

    def __delitem__(self, key: str) -> None:
        self._check_key(key)
        if not self._writing(lambda access: self._storage.delete(self._owner, key, access)):
            raise KeyError(key)

    @overload
    def pop(self, key: str) -> Any: ...
    @overload
    def pop(self, key: str, default: T) -> Any | T: ...
    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove the key and return its value; ``default`` when there is none.

        :raises KeyError: when there is none and no ``default`` is given
        """
        with self.transaction():
            value = self.get(key, _MISSING)
            if value is not _MISSING:
                del self[key]
                return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Any]:
        """Remove the key that was inserted last, and return it with its value.

        :raises KeyError: when the store is empty
        """
        with self.transaction():
            for key in reversed(self):
                return key, self.pop(key)
        raise KeyError("popitem(): the user store is empty")

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value under the key, which is set to ``default`` first when there is none."""
        value = self.get(key, _MISSING)
        if value is not _MISSING:
            return value
        with self.transaction():
            value = self.get(key, _MISSING)
            if value is _MISSING:
                self[key] = value = default
            return value

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set keys from a mapping or from pairs of key and value: all of them, or on an error none."""
        items: dict[str, Any] = {}
        items.update(_at_one_time(other), **more)
        encoded = [(key, self._encode(key, value)) for key, value in items.items()]
        if encoded:
            with self.transaction():
                self._writing(lambda access: self._set_all(encoded, access))

    def _set_all(self, encoded: list[tuple[str, Stored]], access: Access) -> None:
        for key, stored in encoded:
            self._storage.set(self._owner, key, stored, access)

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]  # a dict's |= takes pairs too, its | does not
        self.update(other)
        return self

    def clear(self) -> None:
        """Remove all keys. The session goes on."""
        self._writing(lambda access: self._storage.clear(self._owner, access))

    def increment(self, key: str, by: float = 1) -> Any:
        """Add to a number, which counts as 0 when there is none, and return the sum. A TTL of the key stays.

        :raises NotANumber: when what is stored is no number, or ``by`` none that can be added to it
        """
        with self.transaction():
            number = self.get(key, 0)
            if not isinstance(number, Number):
                raise NotANumber(f"increment({key!r}): what is stored is no number but a {type(number).__name__}.")
            try:
                total = number + by  # type: ignore[operator]
            except TypeError as error:
                both = f"a {type(by).__name__} cannot be added to a {type(number).__name__}"
                raise NotANumber(f"increment({key!r}): {both}.") from error
            self._write(key, total, "keep")
            return total

    @contextmanager
    def edit(self, key: str, default: Any = _MISSING) -> Iterator[Any]:
        """Change a value in place: ``with store.edit("cart", []) as cart: cart.append(item)``.

        The block is a transaction. When it ends the value is written back; an exception leaves what was stored. A
        TTL of the key stays. What cannot be changed in place, such as a number, wants :meth:`transaction` instead.

        :param default: what to begin with when there is no such key
        :raises KeyError: when there is no such key and no ``default`` is given
        """
        with self.transaction():
            value = self.get(key, default)
            if value is _MISSING:
                raise KeyError(key)
            yield value
            self._write(key, value, "keep")

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """A block whose reads and writes are atomic together: nobody else writes to this store meanwhile.

        An exception that leaves the block undoes all of it. Blocks nest, and an inner one can fail by itself. Keep
        it short, for other writers wait, with SQLite those of all stores; so do not ``await`` in it.

        :raises StorageBusy: when others write for longer than USER_STORE_TIMEOUT
        """
        self._trace.was_used = True
        with self._storage.transaction(self._owner):
            yield self

    # What is stored

    @property
    def expires_at(self) -> datetime | None:
        """When the values will be gone unless they are used before, in UTC.

        None when nothing is stored, or what is stored is kept until it is deleted.
        """
        expiry = self._reading(lambda access: self._storage.expiry(self._owner, access), None)
        return None if expiry is None or math.isinf(expiry) else datetime.fromtimestamp(expiry, UTC)

    @property
    def nbytes(self) -> int:
        """How many bytes the keys and values take; USER_STORE_MAX_BYTES bounds it."""
        return self._reading(lambda access: self._storage.nbytes(self._owner, access), 0)

    # How each operation comes to the storage

    def _reading(self, read: Callable[[Access], T], nothing: T) -> T:
        try:
            return read(self._access())
        except SessionEnded as ended:
            self._trace.ended_at = ended.ended_at
            return nothing

    def _writing(self, write: Callable[[Access], T]) -> T:
        try:
            return write(self._write_access())
        except SessionEnded as ended:
            self._trace.ended_at = ended.ended_at
            raise

    def _access(self) -> Access:
        self._trace.was_used = True
        return self._backend.expiry.access()

    def _write_access(self) -> Access:
        self._trace.was_written = True
        return self._access()

    def _keys(self) -> list[str]:
        return self._reading(lambda access: self._storage.keys(self._owner, access), [])

    def _write(self, key: str, value: Any, ttl: KeyExpiry) -> None:
        stored = self._encode(key, value)

        def write(access: Access) -> None:
            expires = access.now + ttl if isinstance(ttl, float) else ttl
            self._storage.set(self._owner, key, stored, access, expires)

        self._writing(write)

    def _encode(self, key: str, value: Any) -> Stored:
        self._check_key(key)
        payload, body = self._codec.encode(self._owner, key, value)
        nbytes = len(payload) if body is None else len(payload) + body.nbytes
        if nbytes > self._backend.max_value_bytes:
            raise ValueTooLarge(
                f"The value for {key!r} takes {nbytes} bytes, and one may take {self._backend.max_value_bytes}. "
                "Store it in parts, or raise USER_STORE_MAX_VALUE_BYTES (max_value_bytes=)."
            )
        return payload, body

    def _check_key(self, key: object) -> str:
        return check_key(key, self._backend.max_key_length)


def _at_one_time(other: Any) -> Any:
    """What ``dict`` takes, but of a store its values at one point in time, where ``dict`` would read key by key."""
    return other.copy() if isinstance(other, StoredMapping) else other
