"""The values of one owner, as a mapping."""

from __future__ import annotations

import math
from collections.abc import (
    Callable,
    Collection,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from numbers import Number
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, overload

from .buffers import Stored
from .codec import Codec
from .errors import NotAnAttribute, NotANumber, SessionEnded, UnstorableValue, UserStoreError, ValueTooLarge
from .expiry import Access, ExpiryPolicy, seconds
from .owner import DEFAULT_MAX_KEY_LENGTH, Owner, check_key
from .session_state import SessionState, Use
from .storage import Storage
from .storage.base import KeyExpiry, OwnersValues, Stat, ValueInfo
from .views import MISSING, Items, Keys, StoredValue, Values, iterate
from .write_listeners import tell, write_listeners

T = TypeVar("T")

DEFAULT_MAX_VALUE_BYTES = 512 * 2**20

KEYS_SHOWN = 10


@dataclass(frozen=True)
class StoreContext:
    """What all stores of an app share.

    :param storage: where values are kept
    :param codec: turns values into what is kept, and back
    :param expiry: says for how long
    :param max_key_length: characters that a key may have
    :param max_value_bytes: bytes that an encoded value may take
    """

    storage: Storage
    codec: Codec
    expiry: ExpiryPolicy
    max_key_length: int = DEFAULT_MAX_KEY_LENGTH
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES


class StoredMapping(MutableMapping[str, Any]):
    """A dict whose values lie in a storage, for one owner.

    :param context: what it shares with the app's other stores
    :param state: whose values these are, and what is done with them
    """

    _context: StoreContext
    _storage: OwnersValues
    _codec: Codec
    _state: SessionState

    def __init__(self, context: StoreContext, state: SessionState) -> None:
        vars(self).update(_context=context, _storage=context.storage, _codec=context.codec, _state=state)

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

    def __iter__(self) -> Iterator[str]:
        return iterate(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return iterate(self._last_keys)

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
        """All keys and values as they are at one point in time, as a plain dict.

        :raises TamperedValue: when one of the values was not written by this app for this owner and key
        :raises UnreadableValue: when the class of one of the values has gone or has changed
        """
        none: tuple[Owner, list[tuple[str, Stored]]] = (self._state.owner, [])
        owner, stored = self._read(lambda owner, access: (owner, self._storage.items(owner, access)), none)
        shown = set(self._shown([key for key, _ in stored]))
        return {key: self._codec.decode(owner.name, key, value) for key, value in stored if key in shown}

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return self.copy()

    def __reduce__(self) -> NoReturn:
        raise UnstorableValue(
            "A store cannot be pickled, for it belongs to a connection. Pickle store.copy(), a dict; or pass "
            "store.job_handle(), and open the store there with middleware.open(handle)."
        )

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
        """A plain dict, for a store belongs to a visitor and cannot be made from keys.

        :param keys: those of the dict
        :param value: what is under each of them
        """
        return dict.fromkeys(keys, value)

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
        items.update(_at_one_time(other), **more)
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

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]  # a dict's |= takes pairs too, its | does not
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

    # How each operation reaches the storage. `get` and `[]=` do without these helpers: each call would slow them down.

    def _read(self, read: Callable[[Owner, Access], T], nothing: T) -> T:
        try:
            return read(self._state.owner, self._access())
        except SessionEnded as ended:
            return self._read(read, nothing) if self._begins_another(ended) else nothing

    def _stored(self, key: str) -> tuple[Owner, Stored | None]:
        """The owner that was read, and what is stored under the key; None when nothing is."""
        none: tuple[Owner, Stored | None] = (self._state.owner, None)
        return self._read(lambda owner, access: (owner, self._storage.get(owner, key, access)), none)

    def _write(self, write: Callable[[Owner, Access], T], keys: Collection[str] | None = ()) -> T:
        """What a call of the storage returns.

        :param keys: those that it changes; None for all
        """
        try:
            result = write(self._state.owner, self._write_access())
        except SessionEnded as ended:
            if not self._begins_another(ended):
                raise
            return self._write(write, keys)
        if write_listeners and (keys is None or keys):
            self._tell(keys)
        return result

    def _tell(self, keys: Collection[str] | None) -> None:
        """Tell the listeners of a write.

        :param keys: those that were changed; None for all
        """
        tell(self, self._storage, keys)

    def _set(self, key: str, value: Any, expires: Callable[[Access], KeyExpiry]) -> None:
        stored = self._encode(key, value)
        owner = self._state.owner
        try:
            access = self._write_access()
            self._storage.set(owner, key, stored, access, expires(access))
        except SessionEnded as ended:
            if not self._begins_another(ended):
                raise
            self._set(key, value, expires)  # The signature is bound to the owner.
        else:
            if write_listeners:
                self._tell((key,))

    def _begins_another(self, ended: SessionEnded) -> bool:  # noqa: ARG002
        """Let the store go on with a new session, if it may. Returns whether it does, so that the call can be repeated.

        :param ended: why the call failed
        """
        return False

    def _access(self) -> Access:
        return self._context.expiry.access()

    def _write_access(self) -> Access:
        return self._access()

    def _keys(self, limit: int | None = None) -> list[str]:
        return self._listed(limit, newest_first=False)

    def _last_keys(self, limit: int | None = None) -> list[str]:
        return self._listed(limit, newest_first=True)

    def _listed(self, limit: int | None, newest_first: bool) -> list[str]:
        keys: list[str] = self._read(lambda owner, access: self._storage.keys(owner, access, limit, newest_first), [])
        shown = self._shown(keys)
        if limit == len(keys) > len(shown):  # Others may take the places of those that are not shown.
            return self._listed(None, newest_first)[:limit]
        return shown

    def _shown(self, keys: list[str]) -> list[str]:
        """Those of the owner's keys that are this store's."""
        return keys

    def _stat(self) -> Stat:
        return self._read(self._storage.stat, Stat())

    def _encode(self, key: str, value: Any) -> Stored:
        context = self._context
        self._check_key(key, context.max_key_length)
        stored = self._codec.encode(self._state.owner.name, key, value)
        payload, buffers = stored
        nbytes = len(payload) if buffers is None else len(payload) + buffers.nbytes
        if nbytes > context.max_value_bytes:
            raise ValueTooLarge(
                f"The value for {key!r} takes {nbytes} bytes, and one may take {context.max_value_bytes}. "
                "Store it in parts, or raise USER_STORE_MAX_VALUE_BYTES (max_value_bytes=).",
                key=key,
                limit=context.max_value_bytes,
            )
        return stored

    _check_key = staticmethod(check_key)


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


def _at_one_time(other: Any) -> Any:
    """An argument for ``dict``. A store is read at one point in time, where ``dict`` would read it key by key."""
    return other.copy() if isinstance(other, StoredMapping) else other
