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
from ..errors import NotAnAttribute, NotANumber, SessionEnded, UnstorableValue, UserStoreError
from ..expiry import Access, seconds
from ..owner import Owner
from ..storage.base import KeyExpiry, ValueInfo
from .base import StoreBase
from .session_state import Use
from .views import MISSING, WholeMapping, at_one_time
from .write_listeners import write_listeners

T = TypeVar("T")

KEYS_SHOWN = 10


@dataclass(frozen=True)
class StoredValue:
    """What :meth:`UserStore.describe` says of a value, which it does not read.

    :ivar key: under which it is stored
    :ivar nbytes: how many bytes it takes, with those of its key
    :ivar kind: ``"large"`` where what it holds is kept apart from its pickle, as of large arrays; or ``"small"``
    :ivar expires_at: when the key is gone by itself, in UTC; None for as long as the session keeps its values
    """

    key: str
    nbytes: int
    kind: Literal["small", "large"]
    expires_at: datetime | None

    @classmethod
    def of(cls, info: ValueInfo) -> StoredValue:
        """The value that a storage knows."""
        expires_at = None if info.expires is None else datetime.fromtimestamp(info.expires, UTC)
        return cls(info.key, info.nbytes, "large" if info.is_large else "small", expires_at)


class StoredMapping(StoreBase, WholeMapping):
    """A dict whose values lie in a storage, for one owner.

    :param context: what it shares with the app's other stores
    :param state: whose values these are, and what is done with them
    """

    def __setattr__(self, name: str, value: Any) -> None:
        raise NotAnAttribute(
            f"A store has no attribute {name!r} to set: what is set under a key is stored at once. To store what is "
            f"changed in place, use `with store.edit(key) as value:`."
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.owner.name[:10]}… {self._shown_keys()}>"

    def _shown_keys(self) -> str:
        """Some of the keys, for a debugger. It does not count as a use of the store, and raises nothing."""
        access = self._context.expiry.access(counts_as_use=False)
        try:
            keys = self._storage.keys(self._state.owner, access, KEYS_SHOWN + 1)
        except SessionEnded:
            return "ended"
        except UserStoreError as error:
            return type(error).__name__
        keys = self._shown(keys)
        return f"[{', '.join(map(repr, keys[:KEYS_SHOWN]))}{', …' if len(keys) > KEYS_SHOWN else ''}]"

    # Reading

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """The value under the key, as a copy of the caller's own.

        :param key: as it was stored
        :param default: what is returned when there is none
        :raises InvalidKey: when the text cannot be a key
        :raises InvalidKeyType: when the key is not a str
        :raises TamperedValue: when the stored bytes were not written by this app for this owner and key
        :raises UnreadableValue: when the class of the value has gone or has changed
        """
        self._check_key(key, self._context.max_key_length)
        try:
            owner = self._state.owner
            stored = self._storage.get(owner, key, self._access())
        except SessionEnded as ended:
            return self.get(key, default) if self._begins_another(ended) else default
        return default if stored is None else self._codec.decode(owner.name, key, stored)

    def __contains__(self, key: object) -> bool:
        checked = self._check_key(key, self._context.max_key_length)
        return self._read(lambda owner, access: self._storage.has(owner, checked, access), False)

    def __len__(self) -> int:
        return self._stat().keys

    def copy(self) -> dict[str, Any]:
        """All keys and values as they are at one point in time, as a plain dict.

        :raises TamperedValue: when one of the values was not written by this app for this owner and key
        :raises UnreadableValue: when the class of one of the values has gone or has changed
        """
        none: tuple[Owner, list[tuple[str, Stored]]] = (self._state.owner, [])
        owner, stored = self._read(lambda owner, access: (owner, self._storage.items(owner, access)), none)
        shown = set(self._shown([key for key, _ in stored]))
        return {key: self._codec.decode(owner.name, key, value) for key, value in stored if key in shown}

    def __reduce__(self) -> NoReturn:
        raise UnstorableValue(
            "A store cannot be pickled, for it belongs to a connection. Pickle store.copy(), a dict; or pass "
            "store.job_handle(), and open the store there with middleware.open(handle)."
        )

    # Writing. Each of these raises, beside what its docstring says: UnstorableValue, ValueTooLarge, QuotaExceeded,
    # TooManyKeys, InvalidKey, InvalidKeyType, SessionEnded, StorageError. UserStore's docstring says when.

    def __setitem__(self, key: str, value: Any) -> None:
        stored = self._encode(key, value)
        try:
            self._storage.set(self._state.owner, key, stored, self._write_access())
        except SessionEnded as ended:
            if not self._begins_another(ended):
                raise
            self[key] = value
        else:
            if write_listeners:
                self._tell((key,))

    def set(self, key: str, value: Any, ttl: float | timedelta | None = None) -> None:
        """Store a value, for a limited time if ``ttl`` is given.

        :param key: a str of 1 to 512 characters
        :param value: anything that the codec takes: by default, what can be pickled
        :param ttl: seconds, or a timedelta, after which the key is gone, however often it is used; None for as long
            as the session keeps its values
        :raises InvalidTTL: when ``ttl`` is not longer than zero
        """
        duration = None if ttl is None else seconds(ttl)
        self._set(key, value, lambda access: None if duration is None else access.now + duration)

    def expire(self, key: str, ttl: float | timedelta | None) -> None:
        """Limit how long a key that is stored already is kept.

        :param key: as it was stored
        :param ttl: seconds, or a timedelta, from now; None lifts the limit
        :raises KeyError: when there is no such key
        :raises InvalidTTL: when ``ttl`` is not longer than zero
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

        :param key: as it was stored
        :param default: what is returned when there is none
        :raises KeyError: when there is none and no ``default`` is given
        :raises TamperedValue: as :meth:`get` does; the key stays
        :raises UnreadableValue: as :meth:`get` does; the key stays
        """
        self._check_key(key, self._context.max_key_length)
        while True:
            # A large value is read and decoded before the lock is taken, and removed if it is still there then.
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
        """Delete the key if the same value is still stored under it. Returns whether it was.

        :param stored: what was read; its payload tells, for no two values that are stored have the same
        :param only_last: whether the key must also be the one that was inserted last
        """
        with self.transaction():
            if only_last and self._last_keys(1) != [key]:
                return False
            access = self._write_access()
            present = self._storage.get(owner, key, access)
            if present is None or present[0] != stored[0] or not self._storage.delete(owner, key, access):
                return False
            if write_listeners:
                self._tell((key,))
            return True

    def popitem(self) -> tuple[str, Any]:
        """Remove the key that was inserted last, and return it with its value.

        :raises KeyError: when the store is empty
        :raises TamperedValue: as :meth:`get` does; the key stays
        :raises UnreadableValue: as :meth:`get` does; the key stays
        """
        while keys := self._last_keys(1):  # In the same steps as pop().
            key = keys[0]
            owner, stored = self._stored(key)
            if stored is not None:
                value = self._codec.decode(owner.name, key, stored)
                if self._delete_if_unchanged(owner, key, stored, only_last=True):
                    return key, value
        raise KeyError("popitem(): the user store is empty")

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value under the key, which is set to ``default`` first when there is none.

        :param key: a str of 1 to 512 characters
        :param default: anything that can be stored; it is ignored when there is a value
        :returns: the value that is stored, or ``default`` itself
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

        :param other: a mapping, or pairs of key and value
        :param more: further keys and values
        """
        items: dict[str, Any] = {}
        items.update(at_one_time(other), **more)
        if items:
            self._update(items)

    def _update(self, items: dict[str, Any]) -> None:
        stored = [(key, self._encode(key, value)) for key, value in items.items()]
        try:
            self._storage.set_all(self._state.owner, stored, self._write_access())
        except SessionEnded as ended:
            if not self._begins_another(ended):
                raise
            self._update(items)
        else:
            if write_listeners:
                self._tell(items.keys())

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc, override]  # a dict's |= takes pairs too, its | does not
        self.update(other)
        return self

    def clear(self) -> None:
        """Remove all keys, and what the visitor's tabs have in their stores. The session goes on."""
        self._write(self._storage.clear, None)

    def increment(self, key: str, by: float = 1) -> Any:
        """Add to a number, atomically, and return the sum. A TTL of the key stays.

        :param key: a str of 1 to 512 characters
        :param by: what is added to the number, which counts as 0 when there is none
        :raises NotANumber: when what is stored is not a number, or ``by`` cannot be added to it
        """
        self._check_key(key, self._context.max_key_length)
        with self.transaction():
            owner, stored = self._stored(key)
            if stored is None or stored[1] is None:
                number = 0 if stored is None else self._codec.decode(owner.name, key, stored)
                return self._add(key, number, by)
        # A value with buffers is hardly a number. It is read outside of the transaction, so other writers do not wait.
        self._check_number(key, self.get(key, 0))
        with self.transaction():
            return self._add(key, self.get(key, 0), by)

    def _add(self, key: str, number: Any, by: float) -> Any:
        self._check_number(key, number)
        try:
            total = number + by
        except TypeError as error:
            both = f"a {type(by).__name__} cannot be added to a {type(number).__name__}"
            raise NotANumber(f"increment({key!r}): {both}.", key=key) from error
        self._set(key, total, _keep)
        return total

    def _check_number(self, key: str, value: object) -> None:
        if not isinstance(value, Number):
            raise NotANumber(f"increment({key!r}): what is stored is a {type(value).__name__}, not a number.", key=key)

    @contextmanager
    def edit(self, key: str, default: Any = MISSING) -> Iterator[Any]:
        """Change a value in place: ``with store.edit("cart", []) as cart: cart.append(item)``.

        The block is a transaction. When it ends the value is written back; an exception leaves what was stored. A
        TTL of the key stays. For a value that cannot be changed in place, such as a number, use :meth:`transaction`.
        Other writers wait while the value is read, changed and written, so assign a large one as a whole instead.

        :param key: a str of 1 to 512 characters
        :param default: what to begin with when there is no such key
        :raises KeyError: when there is no such key and no ``default`` is given
        """
        with self.transaction():
            value = self.get(key, default)
            if value is MISSING:
                raise KeyError(key)
            yield value
            self._set(key, value, _keep)

    def transaction(self) -> AbstractContextManager[Self]:
        """A block whose reads and writes are atomic together: no other request writes to this store meanwhile.

        An exception that leaves the block rolls back all of it. Blocks nest, and an inner one is a savepoint: it can
        fail by itself. Keep it short, for other writers wait, with SQLite those of all stores; so do not ``await`` in
        it.

        :returns: a context manager that gives the store
        :raises StorageBusy: on entering, when others write for longer than USER_STORE_TIMEOUT
        """
        self._state.use = self._state.use or Use.READ
        return _Block(self, self._storage.transaction(self._state.owner))

    # What is stored

    @property
    def expires_at(self) -> datetime | None:
        """When the values will be gone unless they are used before, in UTC.

        None when nothing is stored, or what is stored is kept until it is deleted.
        """
        expires = self._stat().expires
        return None if expires is None or math.isinf(expires) else datetime.fromtimestamp(expires, UTC)

    @property
    def nbytes(self) -> int:
        """How many bytes the keys and values take; USER_STORE_MAX_BYTES bounds it."""
        return self._stat().nbytes

    def describe(self) -> list[StoredValue]:
        """What is stored, without reading it: each key with its bytes, its kind and its own expiry.

        It does not count as a use of the session: it moves no expiry.

        :returns: one for each key, first inserted first; an empty list when nothing is stored
        """
        described: list[ValueInfo] = self._read(self._storage.describe, [])
        shown = set(self._shown([info.key for info in described]))
        return [StoredValue.of(info) for info in described if info.key in shown]


class _Block(AbstractContextManager["Any"]):
    """A storage's transaction as a block that gives the store.

    It is a class, for a generator of contextlib's would add frames to each call.
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
