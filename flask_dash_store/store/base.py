"""What the operations of a store have in common: encoding, limits, retries with a new session, and listeners."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from ..buffers import Stored, size_of
from ..codec import Codec
from ..errors import SessionEnded, ValueTooLarge
from ..expiry import Access, ExpiryPolicy
from ..owner import DEFAULT_MAX_KEY_LENGTH, Owner, check_key
from ..storage import Storage
from ..storage.base import KeyExpiry, OwnersValues, Stat
from ..storage.transaction import on_commit
from .session_state import SessionState

T = TypeVar("T")

DEFAULT_MAX_VALUE_BYTES = 512 * 2**20

WriteListener = Callable[["StoreBase", Collection[str] | None], None]
"""Gets the store that was written to, and the keys that were set or deleted; None for all of its keys.

It is called after the commit, in the thread or task that wrote, and not at all after a rollback. It must not raise.
"""

write_listeners: list[WriteListener] = []
"""Called after each write. ``dash/changed.py`` adds itself; while the list is empty, a write pays one ``if``."""


@dataclass(frozen=True)
class StoreContext:
    """What all stores of an app share.

    :param storage: the storage of the values
    :param codec: encodes and decodes them
    :param expiry: the expiry policy of their owners
    :param max_key_length: the maximum length of a key, in characters
    :param max_value_bytes: the maximum size of an encoded value, in bytes
    """

    storage: Storage
    codec: Codec
    expiry: ExpiryPolicy
    max_key_length: int = DEFAULT_MAX_KEY_LENGTH
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES


class StoreBase:
    """The values of one owner in a storage.

    :param context: what it shares with the app's other stores
    :param state: the owner, and what the request has done with the session
    """

    _context: StoreContext
    _storage: OwnersValues
    _codec: Codec
    _state: SessionState

    def __init__(self, context: StoreContext, state: SessionState) -> None:
        vars(self).update(_context=context, _storage=context.storage, _codec=context.codec, _state=state)

    # `get` and `[]=` do not use _read() and _write(), because a call more would slow them down.

    def _read(self, read: Callable[[Owner, Access], T], nothing: T) -> T:
        try:
            return read(self._state.owner, self._access())
        except SessionEnded as ended:
            return self._read(read, nothing) if self._recover(ended) else nothing

    def _stored(self, key: str) -> tuple[Owner, Stored | None]:
        """The owner, and what is stored under the key; None if nothing is."""
        none: tuple[Owner, Stored | None] = (self._state.owner, None)
        return self._read(lambda owner, access: (owner, self._storage.get(owner, key, access)), none)

    def _write(self, write: Callable[[Owner, Access], T], keys: Collection[str] | None = ()) -> T:
        """Call the storage, and return what it returns.

        :param keys: the keys that the call changes; None for all
        """
        try:
            result = write(self._state.owner, self._write_access())
        except SessionEnded as ended:
            if not self._recover(ended):
                raise
            return self._write(write, keys)
        if write_listeners and (keys is None or keys):
            self._notify(keys)
        return result

    def _notify(self, keys: Collection[str] | None) -> None:
        """Call the write listeners once the write is committed.

        :param keys: the keys that were changed; None for all
        """

        def call_all() -> None:
            for listener in write_listeners:
                listener(self, keys)

        on_commit(self._storage, call_all)

    def _set(self, key: str, value: Any, expires: Callable[[Access], KeyExpiry]) -> None:
        self._check_key(key, self._context.max_key_length)
        self._put(key, value, expires)

    def _put(self, key: str, value: Any, expires: Callable[[Access], KeyExpiry]) -> None:
        stored = self._encode_value(key, value)
        owner = self._state.owner
        try:
            access = self._write_access()
            self._storage.set(owner, key, stored, access, expires(access))
        except SessionEnded as ended:
            if not self._recover(ended):
                raise
            self._put(key, value, expires)  # The signature is bound to the owner.
        else:
            if write_listeners:
                self._notify((key,))

    def _recover(self, ended: SessionEnded) -> bool:  # noqa: ARG002
        """Move to another session after this one has ended, if possible. Returns whether the call can be repeated.

        :param ended: the error of the call
        """
        return False

    def _access(self) -> Access:
        return self._context.expiry.access()

    def _write_access(self) -> Access:
        return self._access()

    def _keys(self, limit: int | None = None, newest_first: bool = False) -> list[str]:
        keys: list[str] = self._read(lambda owner, access: self._storage.keys(owner, access, limit, newest_first), [])
        shown = self._visible(keys)
        if limit == len(keys) > len(shown):  # Hidden keys have used up the limit.
            return self._keys(None, newest_first)[:limit]
        return shown

    def _visible(self, keys: list[str]) -> list[str]:
        """The owner's keys without those that the store does not show."""
        return keys

    def _stat(self) -> Stat:
        return self._read(self._storage.stat, Stat())

    def _encode(self, key: str, value: Any) -> Stored:
        self._check_key(key, self._context.max_key_length)
        return self._encode_value(key, value)

    def _encode_value(self, key: str, value: Any) -> Stored:
        context = self._context
        stored = self._codec.encode(self._state.owner.name, key, value)
        payload, buffers = stored
        nbytes = len(payload) if buffers is None else size_of(stored)
        if nbytes > context.max_value_bytes:
            raise ValueTooLarge(
                f"The value for {key!r} takes {nbytes:,} bytes; the limit for a value is {context.max_value_bytes:,}. "
                "Store it under several keys, or raise USER_STORE_MAX_VALUE_BYTES (max_value_bytes=).",
                key=key,
                limit=context.max_value_bytes,
            )
        return stored

    _check_key = staticmethod(check_key)
