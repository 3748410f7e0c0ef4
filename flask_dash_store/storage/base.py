"""What every storage promises.

A storage keeps values by owner and key, and one expiry for each owner. A value is a payload (bytes), and buffers if it
is large. The storage does not know what they contain, nor anything about cookies, requests and settings. For each
method:

- It may be called from any thread of any process, before and after a fork.
- A value that is missing, or that has expired at ``access.now``, is absent. This is never an error: a method returns
  what its docstring says.
- It is atomic. Inside :meth:`Storage.transaction`, all calls are atomic together.
- If the owner's session has ended, or has another id now, reads and writes raise
  :class:`~flask_dash_store.errors.SessionEnded`. Only :meth:`Storage.current` ignores the id that it is given.
- A failure raises a :class:`~flask_dash_store.errors.StorageError` in the call that failed, and changes nothing. No
call
  waits for a lock for longer than the storage's timeout.
- Reading or writing an owner's values is a *use*: it moves the owner's expiry to ``access.expires`` if
  ``access.is_touch_due``. A read that cannot move it at once leaves that to the next use.

A session is identified by the SHA-256 of its id, ``owner.session``. The first write to an owner stores it. From then on
only that id opens the values, until :meth:`Storage.renew` replaces it, or :meth:`Storage.end` removes it.

An id that has been replaced must stay dead for as long as a browser may send its cookie. So when an owner expires, its
values and its user are removed, but an owner that was renewed or ended is remembered until then: until that time is
before the ``ended_before`` of :meth:`Storage.maintain`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ..buffers import Stored
from ..errors import QuotaExceeded, TooManyKeys
from ..expiry import Access
from ..owner import Owner
from .statistics import Totals

DEFAULT_MAX_BYTES = 2**30
DEFAULT_MAX_KEYS = 10_000  # An update() of 100,000 keys takes a second or two, during which other writers wait.
DEFAULT_TIMEOUT = 5.0

VERSION_BYTES = 32  # The length of a payload's MAC.

KeyExpiry = float | None | Literal["keep"]
Synchronous = Literal["NORMAL", "FULL"]

Value = tuple[str, Stored, float | None]
"""A key, its value, and when the key itself expires, in seconds since the epoch; None for never."""

Expired = Callable[[str, list[str]], object]
"""Called with the name of an owner whose values have expired, and their keys."""

ENDED = b""
"""Stored as the session of an owner whose session has ended. No SHA-256 is empty, so no id opens it."""


class Limits(NamedTuple):
    """How much one owner may store: bytes of keys and values, and number of keys."""

    max_bytes: int = DEFAULT_MAX_BYTES
    max_keys: int = DEFAULT_MAX_KEYS

    def too_many_keys(self, key: str, used: int | None = None) -> TooManyKeys:
        """The error for one key too many.

        :param used: how many keys the owner has
        """
        return TooManyKeys(
            f"{key!r} would exceed the {self.max_keys:,} keys that one session or user may have. Delete keys, store "
            "several things in one value, or raise USER_STORE_MAX_KEYS (max_keys=).",
            key=key,
            limit=self.max_keys,
            used=self.max_keys if used is None else used,
        )

    def quota_exceeded(self, key: str, nbytes: int, used: int) -> QuotaExceeded:
        """The error for a value that needs ``nbytes`` more than the ``used`` bytes leave."""
        return QuotaExceeded(
            f"The value for {key!r} needs {nbytes:,} more bytes. One session or user may store {self.max_bytes:,} "
            f"bytes, of which {used:,} are in use. Delete keys, or raise USER_STORE_MAX_BYTES (max_bytes=).",
            key=key,
            limit=self.max_bytes,
            used=used,
        )


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class StorageOptions:
    """An app's options for its storage, for all backends.

    :param folder: the folder of relative paths: the app's instance folder
    :param limits: how much one owner may store
    :param timeout: seconds that a call waits for other writers
    :param keep_ended: seconds for which ended sessions are remembered: as long as their cookies could be replayed
    :param synchronous: ``"FULL"`` if an acknowledged write must survive a power loss
    :param must_exist: whether a missing file is an error; otherwise it is created
    """

    folder: Path
    limits: Limits = DEFAULT_LIMITS
    timeout: float = DEFAULT_TIMEOUT
    keep_ended: float = math.inf
    synchronous: Synchronous = "NORMAL"
    must_exist: bool = False


class Stat(NamedTuple):
    """How much an owner stores.

    :ivar expires: when it expires, in seconds since the epoch; None for an owner without values
    :ivar nbytes: bytes of its keys and values
    :ivar keys: how many keys it has
    :ivar user: the hash of the user to whom the session is bound; None if it is not bound
    """

    expires: float | None = None
    nbytes: int = 0
    keys: int = 0
    user: bytes | None = None


class ValueInfo(NamedTuple):
    """What is known about a value without reading it.

    :ivar nbytes: bytes of the key and the value
    :ivar expires: when the key itself expires, in seconds since the epoch; None for never
    :ivar is_large: whether the value has buffers
    """

    key: str
    nbytes: int
    expires: float | None
    is_large: bool


class SessionInfo(NamedTuple):
    """A session of a user.

    :ivar owner: the owner of its values
    :ivar created_at: when its first value was stored, in seconds since the epoch
    :ivar expires: when its values expire, in seconds since the epoch
    :ivar nbytes: bytes of its keys and values
    """

    owner: Owner
    created_at: float
    expires: float
    nbytes: int


class ExpiryLimit(NamedTuple):
    """A limit for owners whose names begin with ``prefix``: none expires after ``latest`` (seconds since the epoch)."""

    prefix: str
    latest: float


class Removed(NamedTuple):
    """What one call of :meth:`Storage.maintain` has removed.

    :ivar owners: how many owners
    :ivar keys: how many keys with an expiry of their own
    :ivar has_more: whether there is more to do
    """

    owners: int = 0
    keys: int = 0
    has_more: bool = False


class OwnersValues(ABC):
    """The values of an owner by key: the part of a storage that a store uses as a mapping."""

    # Reading

    @abstractmethod
    def get(self, owner: Owner, key: str, access: Access) -> Stored | None:
        """The value under the key; None if there is none.

        The caller may change its buffers; this does not change what is stored.
        """

    @abstractmethod
    def has(self, owner: Owner, key: str, access: Access) -> bool:
        """Whether there is a value under the key."""

    @abstractmethod
    def keys(self, owner: Owner, access: Access, limit: int | None = None, newest_first: bool = False) -> list[str]:
        """The owner's keys, in order of insertion. Overwriting a key does not move it.

        :param limit: how many at most, from the beginning. The cost depends on the limit, not on how many keys there
            are.
        :param newest_first: whether to reverse the order
        """

    @abstractmethod
    def items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        """The owner's keys and values at one point in time, in the order of :meth:`keys`."""

    @abstractmethod
    def stat(self, owner: Owner, access: Access) -> Stat:
        """How much the owner stores, and whose session it is. Without values, the expiry is None, and the rest zero.

        This is not a use. The cost does not depend on how many keys there are.
        """

    @abstractmethod
    def describe(self, owner: Owner, access: Access) -> list[ValueInfo]:
        """What is known about the owner's values, in the order of :meth:`keys`. This reads no value, and is not a use.

        With a negative ``access.now``, it includes what has expired and is not removed yet.
        """

    def versions(self, owner: Owner, keys: Collection[str] | None, access: Access) -> dict[str, bytes]:
        """A version of each value, which changes when another value is stored: the last bytes of its payload.

        These are up to :data:`VERSION_BYTES`, where a signed payload has its MAC. No value is read, and this is not a
        use. Open pages call it each second, so a backend should need one round trip for all keys.

        :param keys: the keys whose versions are wanted; None for all of the owner's
        :returns: the versions by key, without missing keys, in any order
        """
        unused = access._replace(touch_threshold=math.inf)
        names = self.keys(owner, unused) if keys is None else keys
        found = ((key, self.get(owner, key, unused)) for key in names)
        return {key: stored[0][-VERSION_BYTES:] for key, stored in found if stored is not None}

    # Writing

    @abstractmethod
    def set(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        """Store the value under the key, and replace the one that is there, if any.

        :param key_expires: when this key expires, in seconds since the epoch, independently of the owner; None for
            never, ``"keep"`` to leave it unchanged
        :raises QuotaExceeded: if the owner's values would together exceed their limit
        :raises TooManyKeys: if the owner would have too many keys
        """

    def set_all(self, owner: Owner, values: Iterable[tuple[str, Stored]], access: Access) -> None:
        """Store several values: all of them, or none if an error is raised. The errors are those of :meth:`set`."""
        with self.transaction(owner):
            for key, value in values:
                self.set(owner, key, value, access)

    def replace(self, owner: Owner, key: str, former: bytes, value: Stored, access: Access) -> bool:
        """Store the value if the key still has the former payload (compare-and-set). Returns whether it has.

        The key's own expiry stays. The errors are those of :meth:`set`.

        :param former: the payload that was read
        """
        with self.transaction(owner):
            present = self.get(owner, key, access)
            if present is None or present[0] != former:
                return False
            self.set(owner, key, value, access, "keep")
            return True

    @abstractmethod
    def expire(self, owner: Owner, key: str, key_expires: float | None, access: Access) -> bool:
        """Set when the key expires, in seconds since the epoch; None for never. Returns whether there is such a key."""

    @abstractmethod
    def delete(self, owner: Owner, key: str, access: Access) -> bool:
        """Delete the key. Returns whether there was one."""

    @abstractmethod
    def clear(self, owner: Owner, access: Access) -> None:
        """Delete all keys of the owner."""

    @abstractmethod
    def transaction(self, owner: Owner) -> AbstractContextManager[object]:
        """A block in which all calls for the owner are atomic together, and no other context writes to the owner.

        An exception that leaves the block rolls back all of it, including writes to other owners. Blocks nest: an inner
        one is a savepoint, which can be rolled back alone. ``on_commit`` and ``on_rollback`` of the
        :class:`~flask_dash_store.storage.transaction.Transaction` register functions to call afterwards.

        :raises StorageBusy: on entering, if others hold the lock for longer than the timeout
        """


class Storage(OwnersValues):
    """A backend: values by (owner, key), with each owner's expiry."""

    # Sessions as a whole

    @abstractmethod
    def renew(self, owner: Owner, session: bytes, access: Access, user: bytes | None = None) -> None:
        """Replace the session id that opens the owner's values. An owner without values is remembered, too.

        :param session: the SHA-256 of the new id
        :param user: the hash of the user who has logged in, by which :meth:`sessions` finds the session; None leaves it
            unchanged. It is kept until the owner expires, even without values.
        """

    @abstractmethod
    def current(self, owner: Owner, access: Access) -> Owner:
        """The owner with the session id that opens its values now, whatever ``owner.session`` is.

        It is for jobs, which continue when a login has replaced the id with which they began. It is not a use. An owner
        that is not known is returned as it is, because its first write will set the id.

        :raises SessionEnded: if the session has ended
        """

    @abstractmethod
    def end(self, owner: Owner, access: Access) -> float:
        """End the session: its id never opens anything again, and its values are deleted, now or by maintenance.

        It is not an error if the session has already ended, or has another id.

        :returns: when it ended, in seconds since the epoch: now, or when it ended or was renewed before
        """

    @abstractmethod
    def sessions(self, user: bytes, access: Access) -> list[SessionInfo]:
        """The sessions of a user that have neither ended nor expired, oldest first."""

    @abstractmethod
    def owners(self, prefix: str, access: Access) -> list[str]:
        """The sorted names of the owners with values whose names begin with the prefix."""

    # Maintenance, and the end

    @property
    def needs_maintenance(self) -> bool:
        """Whether :meth:`maintain` should be called soon, after this response."""
        return False

    @abstractmethod
    def maintain(
        self,
        now: float,
        ended_before: float,
        expiry_limit: ExpiryLimit | None = None,
        wait: bool = False,
        expired: Expired | None = None,
    ) -> Removed:
        """Remove what has expired, forget owners that ended long ago, and free the space.

        One call does a little, so that no writer waits long for it. While the result ``has_more``, call it again. If a
        server removes expired values by itself, there is nothing to do without ``wait``.

        :param now: what has expired by then is removed; seconds since the epoch
        :param ended_before: expired owners that were renewed or ended before then are forgotten; seconds since the
            epoch
        :param expiry_limit: later finite expiries are moved to this limit. They come from a clock that has been stepped
            back since.
        :param wait: whether to wait for other writers; otherwise, what they have locked is left for the next call
        :param expired: called once for each owner whose values have expired, with the keys that were still stored,
            after the commit, when no lock is held. It is not called if a server removes expired values by itself.
        :raises StorageBusy: if others hold the lock for longer than the timeout; without ``wait``, if they hold it now
        """

    @abstractmethod
    def close(self) -> None:
        """Close files and connections. Any later call raises StorageClosed; a second close does nothing."""


class Dump(NamedTuple):
    """Everything that a storage keeps of an owner, in a form for any storage. Times are seconds since the epoch.

    :ivar expires: the owner's expiry; infinity for values that are kept until they are deleted
    :ivar session: the SHA-256 of the session id that opens the values; None for those of a user id, :data:`ENDED` once
        the session has ended
    :ivar renewed_at: when it was last renewed or ended; None for never
    :ivar values: the values, in the order of insertion
    :ivar damaged: the keys of values that cannot be read
    :ivar user: the hash of the user to whom the session is bound; None if it is not bound
    :ivar created_at: when its first value was stored
    """

    expires: float
    session: bytes | None
    renewed_at: float | None
    values: list[Value]
    damaged: tuple[str, ...] = ()
    user: bytes | None = None
    created_at: float = 0.0


class SupportsExport(ABC):
    """A storage whose owners can be copied into another storage, one by one."""

    @abstractmethod
    def all_owners(self) -> Iterator[str]:
        """The names of all known owners, including expired and ended ones, in any order.

        Each owner that exists during the whole iteration is given once. One that is created or removed during it may be
        given.
        """

    @abstractmethod
    def dump(self, name: str) -> Dump | None:
        """Everything that is kept of an owner, at one point in time; None if it is not known. It is not a use."""

    @abstractmethod
    def load(self, name: str, dump: Dump) -> None:
        """Replace everything that is kept of an owner by a dump, without checking limits."""

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """A sentence for each damage found. This may take long, and does not block other calls."""


Progress = Callable[[int, int], object]
"""Called with how much work is done, and how much there is, in the same unit."""


def no_progress(done: int, total: int) -> None:
    """Report no progress."""


class SupportsBackup(ABC):
    """A storage that can be copied into files, as a whole, at one point in time."""

    @abstractmethod
    def back_up(self, target: Path, progress: Progress = no_progress) -> list[str]:
        """Copy what is stored at one point in time into a new file, while others read and write.

        :param progress: called from time to time
        :returns: the values that were left out because they are damaged, each as ``owner/key``
        :raises StorageError: if the file exists, its directory does not exist, or it cannot be written
        """

    @abstractmethod
    def inspect_backup(self, source: Path, now: float) -> Totals:
        """Check that a backup is complete, and say how much it contains. Nothing is restored.

        :param now: what has expired by then does not count; seconds since the epoch
        :raises StorageError: if there is no backup, or it cannot be read
        """

    @abstractmethod
    def restore(self, source: Path, progress: Progress = no_progress) -> None:
        """Replace everything that is stored by the contents of a backup.

        A session that has ended since the backup stays ended, and one that has got another id since then keeps it.

        :param progress: called from time to time
        :raises StorageError: if there is no backup, or it cannot be read; then nothing has changed
        """
