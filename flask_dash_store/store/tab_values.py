"""A store for each browser tab of a visitor, inside the visitor's own.

A tab's values are stored with those of the visitor's session. So they count towards its quotas, stay after a login, and
are deleted at logout. Their keys begin with ``tab/<tab>/``, which is not valid in a user store, and a user store does
not show them. The key ``tab/<tab>/`` itself is the tab's *lease*: it holds when the tab was last used, and expires
``tab_ttl`` after that. Without a lease, a tab has no values, even if some are left. The next tab that acquires or
renews a lease deletes them. The key ``tab/`` marks a session that has had tabs, so that others need not search for
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from typing import Any

from ..buffers import Stored
from ..codec import Codec
from ..errors import SessionEnded, StorageError
from ..expiry import TOUCHES_PER_TTL, Access
from ..owner import TABS_PREFIX, Owner
from ..storage.base import KeyExpiry, OwnersValues, Stat, ValueInfo
from .mapping import StoredMapping
from .user_store import SessionContext, UserStore

TAB_HEADER = "X-User-Store-Tab"  # The header with the name of a request's tab, as in dash/tab_store.js.
TAB_IN_ENVIRON = "HTTP_X_USER_STORE_TAB"
NO_TAB = "0" * 32
"""The name of the tab in tests, and while Dash prepares itself."""

current_tab: ContextVar[str] = ContextVar("flask_dash_store.current_tab", default="")
"""The current tab's name where it is not in a header: in a callback over a websocket, and in tests. Else empty."""


class TabStore(StoredMapping):
    """The values of one browser tab. It behaves like a :class:`UserStore`, without the methods for sessions.

    Its values are deleted when the tab has not used it for USER_STORE_TAB_TTL, by default an hour, or when the session
    ends. They count towards the visitor's quotas. Each tab of a visitor has its own.

    :param store: the visitor's store
    :param tab: the tab's name, 32 hexadecimal digits
    """

    _context: SessionContext

    def __init__(self, store: UserStore, tab: str) -> None:
        context, codec, prefix = store._context, store._codec, f"{TABS_PREFIX}{tab}/"  # noqa: SLF001
        vars(self).update(
            _context=context,
            _storage=_TabValues(context.storage, codec, prefix, context.tab_ttl),
            _codec=_TabCodec(codec, prefix),
            _state=store._state,  # noqa: SLF001
            _visitors=store,
        )

    _visitors: UserStore

    def clear(self) -> None:
        """Remove all keys of the tab. The visitor's ``user_store`` and other tabs keep theirs."""
        super().clear()

    @property
    def nbytes(self) -> int:
        """How many bytes the tab's keys and values take. USER_STORE_MAX_BYTES is the limit for the whole session."""
        return super().nbytes

    # The visitor's store knows the session.

    def _access(self) -> Access:
        return self._visitors._access()  # noqa: SLF001

    def _write_access(self) -> Access:
        return self._visitors._write_access()  # noqa: SLF001

    def _recover(self, ended: SessionEnded) -> bool:
        return self._visitors._recover(ended)  # noqa: SLF001

    def _notify(self, keys: Collection[str] | None) -> None:
        """Do nothing: no listener is interested in a tab's values."""


class _TabCodec:
    """Signs values for the keys under which they are stored."""

    def __init__(self, codec: Codec, prefix: str) -> None:
        self._codec = codec
        self._prefix = prefix

    def encode(self, owner: str, key: str, value: Any) -> Stored:
        return self._codec.encode(owner, self._prefix + key, value)

    def decode(self, owner: str, key: str, stored: Stored) -> Any:
        return self._codec.decode(owner, self._prefix + key, stored)

    def re_sign(self, owner: str, key: str, payload: bytes) -> bytes:
        return self._codec.re_sign(owner, self._prefix + key, payload)


class _TabValues(OwnersValues):
    """The part of an owner's values that belongs to a tab, under the tab's own keys.

    :param prefix: the prefix of these keys in the storage, which is also the key of the tab's lease
    :param ttl: idle seconds after which the values are deleted
    """

    def __init__(self, storage: OwnersValues, codec: Codec, prefix: str, ttl: float) -> None:
        self._storage = storage
        self._codec = codec
        self._prefix = prefix
        self._ttl = ttl

    # Reading

    def get(self, owner: Owner, key: str, access: Access) -> Stored | None:
        return self._storage.get(owner, self._prefix + key, access) if self._is_live(owner, access) else None

    def has(self, owner: Owner, key: str, access: Access) -> bool:
        return self._is_live(owner, access) and self._storage.has(owner, self._prefix + key, access)

    def keys(self, owner: Owner, access: Access, limit: int | None = None, newest_first: bool = False) -> list[str]:
        if not self._is_live(owner, access):
            return []
        keys = self._storage.keys(owner, access, None, newest_first)
        return [key[len(self._prefix) :] for key in keys if self._is_own(key)][:limit]

    def items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        while True:  # One by one, because items() would also read the visitor's other values, which may be large.
            before = self.versions(owner, None, access)
            found = [(key, self.get(owner, key, access)) for key in self.keys(owner, access)]
            if self.versions(owner, None, access) == before:
                return [(key, stored) for key, stored in found if stored is not None]

    def stat(self, owner: Owner, access: Access) -> Stat:
        described = self._described(owner, access)
        own = [info for info in described if self._is_own(info.key)]
        expires = [info.expires for info in described if info.key == self._prefix]
        return Stat(expires[0] if own else None, sum(info.nbytes for info in own), len(own))

    def describe(self, owner: Owner, access: Access) -> list[ValueInfo]:
        described = self._described(owner, access)
        return [info._replace(key=info.key[len(self._prefix) :]) for info in described if self._is_own(info.key)]

    def versions(self, owner: Owner, keys: Collection[str] | None, access: Access) -> dict[str, bytes]:
        names = None if keys is None else [self._prefix + key for key in keys]
        versions = self._storage.versions(owner, names, access)
        return {key[len(self._prefix) :]: version for key, version in versions.items() if self._is_own(key)}

    def _described(self, owner: Owner, access: Access) -> list[ValueInfo]:
        described = self._storage.describe(owner, access)
        return described if any(info.key == self._prefix for info in described) else []

    def _is_own(self, key: str) -> bool:
        return key.startswith(self._prefix) and key != self._prefix

    # Writing

    def set(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        self._acquire_lease(owner, access)
        self._storage.set(owner, self._prefix + key, value, access, key_expires)

    def set_all(self, owner: Owner, values: Iterable[tuple[str, Stored]], access: Access) -> None:
        self._acquire_lease(owner, access)
        self._storage.set_all(owner, [(self._prefix + key, value) for key, value in values], access)

    def expire(self, owner: Owner, key: str, key_expires: float | None, access: Access) -> bool:
        return self._is_live(owner, access) and self._storage.expire(owner, self._prefix + key, key_expires, access)

    def delete(self, owner: Owner, key: str, access: Access) -> bool:
        return self._is_live(owner, access) and self._storage.delete(owner, self._prefix + key, access)

    def clear(self, owner: Owner, access: Access) -> None:
        self._delete_those(owner, access, lambda keys: filter(self._is_own, keys))

    def transaction(self, owner: Owner) -> AbstractContextManager[object]:
        return self._storage.transaction(owner)

    # The lease

    def _is_live(self, owner: Owner, access: Access) -> bool:
        """Whether the tab has a lease. Renews it when that is due."""
        lease = self._storage.get(owner, self._prefix, access)
        if lease is None:
            return False
        taken_at = self._codec.decode(owner.name, self._prefix, lease)
        counts_as_use = access.touch_threshold < math.inf
        if counts_as_use and abs(access.now - taken_at) > self._ttl / TOUCHES_PER_TTL:
            with suppress(StorageError):  # It stays due, so the next use tries again.
                self._write_lease(owner, access)
                self._delete_leftovers(owner, access)
        return True

    def _acquire_lease(self, owner: Owner, access: Access) -> None:
        """Acquire a lease before a value is written, unless the tab has one."""
        if self._is_live(owner, access):
            return
        with self._storage.transaction(owner):
            if not self._storage.has(owner, self._prefix, access):
                self._delete_leftovers(owner, access)
                self._storage.set(owner, TABS_PREFIX, self._codec.encode(owner.name, TABS_PREFIX, None), access)
                self._write_lease(owner, access)

    def _write_lease(self, owner: Owner, access: Access) -> None:
        lease = self._codec.encode(owner.name, self._prefix, access.now)
        self._storage.set(owner, self._prefix, lease, access, access.now + self._ttl)

    def _delete_leftovers(self, owner: Owner, access: Access) -> None:
        """Delete the values of tabs whose leases have expired."""

        def leftovers(keys: list[str]) -> Iterable[str]:
            leases = {key for key in keys if key.startswith(TABS_PREFIX) and key.endswith("/")}
            return (key for key in keys if key.startswith(TABS_PREFIX) and f"{key.rpartition('/')[0]}/" not in leases)

        self._delete_those(owner, access, leftovers)

    def _delete_those(self, owner: Owner, access: Access, which: Callable[[list[str]], Iterable[str]]) -> None:
        with self._storage.transaction(owner):
            for key in which(self._storage.keys(owner, access)):
                self._storage.delete(owner, key, access)
