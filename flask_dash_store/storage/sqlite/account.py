"""An owner inside a write transaction: when it expires, and how much of its limits its values take."""

from __future__ import annotations

from ...expiry import Access
from ..expiry import is_in_future, is_live_key
from ..limits import Limits
from . import schema
from .buffers import BufferStore
from .purging import forget_files
from .transaction import Transaction


class Account:
    """Keeps count while an owner's values are changed. Values that have expired are gone from it when it is made."""

    def __init__(
        self, transaction: Transaction, buffers: BufferStore, limits: Limits, owner: str, access: Access
    ) -> None:
        self.transaction = transaction
        self.owner = owner
        self._buffers = buffers
        self._limits = limits
        self._access = access
        self._expiry: float | None = None  # None: there are no values, so a first one begins their time anew.
        self._nbytes = self._keys = 0
        rows = transaction.execute(schema.SESSION, (owner,))
        if rows and is_in_future(rows[0][0], access):
            self._expiry, self._nbytes, self._keys = rows[0]
            if {type(self._nbytes), type(self._keys)} != {int}:
                self._measure()
        else:
            self.clear()
        self._recorded = self._nbytes, self._keys

    @property
    def is_live(self) -> bool:
        return self._expiry is not None

    def has(self, key: str) -> bool:
        """Whether there is a key that has not expired."""
        found = self.transaction.execute(schema.SIZE, (f"{self.owner}/{key}",))
        return any(is_live_key(expires, self._access) for _, expires, _ in found)

    def make_room(self, key: str, charge: int) -> float | None:
        """Count a value that is about to be stored, in place of what is there. Returns when that expires, if it does.

        A key that has expired is deleted, so that what is stored there next is new, and comes last.

        :raises QuotaExceeded: when there are no bytes left for it
        :raises TooManyKeys: when it is one key too many
        """
        for old_charge, expires, file in self.transaction.execute(schema.SIZE, (f"{self.owner}/{key}",)):
            if is_live_key(expires, self._access):
                self._take(key, charge - old_charge, 0)
                forget_files(self.transaction, self._buffers, [(file,)])
                return expires  # type: ignore[no-any-return]
            self.delete(key)
        self._take(key, charge + len(key.encode()), 1)
        return None

    def _take(self, key: str, nbytes: int, keys: int) -> None:
        if not self._has(nbytes, keys):
            self._delete_expired()
            if not self._has(nbytes, keys):
                raise self._limits.refusal(key, nbytes, keys, self._nbytes, self._keys)
        self._nbytes += nbytes
        self._keys += keys

    def _has(self, nbytes: int, keys: int) -> bool:
        """Whether there is room for so much more; what shrinks is always let in."""
        fits = nbytes <= 0 or self._nbytes + nbytes <= self._limits.max_bytes
        return fits and (keys <= 0 or self._keys + keys <= self._limits.max_keys)

    def delete(self, key: str) -> bool:
        """Delete a key. Returns whether it was there, and had not expired."""
        was_live = False
        place = f"{self.owner}/{key}"
        for charge, expires, file in self.transaction.execute(schema.SIZE, (place,)):
            was_live = is_live_key(expires, self._access)
            self._nbytes -= charge + len(key.encode())
            self._keys -= 1
            self.transaction.execute(schema.DELETE, (place,))
            forget_files(self.transaction, self._buffers, [(file,)])
        return was_live

    def clear(self) -> None:
        """Delete all keys."""
        clear(self.transaction, self._buffers, self.owner)
        self._nbytes = self._keys = 0

    def _delete_expired(self) -> None:
        args = (self.owner, self.owner, self._access.now)
        forget_files(self.transaction, self._buffers, self.transaction.execute(schema.CLEAR_EXPIRED, args))
        self._measure()

    def _measure(self) -> None:
        self._nbytes, self._keys = measure(self.transaction, self.owner)

    def record_use(self) -> None:
        """Write down what is taken now, and when the owner expires after this use."""
        if self._expiry is None or self._access.is_touch_due(self._expiry):
            self._put(self._access.expires)
        elif (self._nbytes, self._keys) != self._recorded:
            self._put(self._expiry)

    def _put(self, expiry: float) -> None:
        self.transaction.execute(schema.PUT_SESSION, (self.owner, expiry, self._nbytes, self._keys))


def clear(transaction: Transaction, buffers: BufferStore, owner: str) -> None:
    """Delete all keys of an owner, whatever its account says."""
    forget_files(transaction, buffers, transaction.execute(schema.CLEAR, (owner, owner)))


def measure(transaction: Transaction, owner: str) -> tuple[int, int]:
    """How many bytes the owner's values take, and how many keys there are."""
    nbytes, keys = transaction.execute(schema.MEASURE, {"owner": owner})[0]
    return nbytes, keys
