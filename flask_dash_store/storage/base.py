"""What every storage promises.

A storage keeps values by owner and key, and one expiry for each owner. A value is a payload (bytes), and buffers if it
is large; the storage knows nothing of what they mean, nor of cookies, requests and settings. These hold for each
method:

- It may be called from any thread of any process, before and after a fork.
- What is missing, and what has expired at ``access.now``, is absent: a method returns what its docstring says, and
  never raises for it.
- Each is atomic. Inside :meth:`Storage.transaction` they are atomic together.
- An owner whose session now has another id, or has ended, raises :class:`~flask_dash_store.errors.SessionEnded`, on
  reads and on writes. Only :meth:`Storage.current` is asked without the present id.
- A fault raises a :class:`~flask_dash_store.errors.StorageError` in the call that met it, and changes nothing. No call
  waits for a lock for longer than the storage's timeout.
- Reading or writing an owner's values is a use: it moves the owner's expiry to ``access.expires``, when
  ``access.is_touch_due``. A read that cannot move it at once leaves that to the next use.

A session is known by the SHA-256 of its id, ``owner.session``. The first write of an owner stores it; from then on only
that id opens the values, until :meth:`Storage.renew` replaces it by another, or :meth:`Storage.end` removes it.

An id that has been replaced must stay dead for as long as a cookie can bring it. So when an owner expires, its values
and its user are removed, but an owner that was renewed or ended is still remembered, until ``ended_before`` of
:meth:`Storage.maintain` is later than that.
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
DEFAULT_MAX_KEYS = 10_000  # One update() of 100,000 keys takes a second or two, for which other writers wait.
DEFAULT_TIMEOUT = 5.0

VERSION_BYTES = 32  # As many as a payload's MAC has.

KeyExpiry = float | None | Literal["keep"]
Synchronous = Literal["NORMAL", "FULL"]

Value = tuple[str, Stored, float | None]
"""A key, what is stored under it, and when the key itself expires, in seconds since the epoch; None for never."""

Expired = Callable[[str, list[str]], object]
"""Gets the name of an owner whose values have expired, and their keys."""

ENDED = b""
"""What is kept as the session of an owner whose session has ended. No SHA-256 is empty, so no id opens it."""


class Limits(NamedTuple):
    """How much the values of one owner may take: bytes, with those of their keys, and keys."""

    max_bytes: int = DEFAULT_MAX_BYTES
    max_keys: int = DEFAULT_MAX_KEYS

    def too_many_keys(self, key: str, used: int | None = None) -> TooManyKeys:
        """The error for a key that would be one too many.

        :param used: how many keys there are
        """
        return TooManyKeys(
            f"{key!r} would be one key more than the {self.max_keys:,} that one session or user may have. Delete keys, "
            "keep many small things in one value, or raise USER_STORE_MAX_KEYS (max_keys=).",
            key=key,
            limit=self.max_keys,
            used=self.max_keys if used is None else used,
        )

    def quota_exceeded(self, key: str, nbytes: int, used: int) -> QuotaExceeded:
        """The error for a value that needs ``nbytes`` more than the ``used`` bytes leave."""
        return QuotaExceeded(
            f"The value for {key!r} needs {nbytes:,} more bytes. One session or user may store {self.max_bytes:,}, "
            f"and {used:,} are in use. Delete keys, or raise USER_STORE_MAX_BYTES (max_bytes=).",
            key=key,
            limit=self.max_bytes,
            used=used,
        )


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class StorageOptions:
    """What an app asks of its storage, whichever backend it is.

    :param folder: where a relative path lies: the app's instance folder
    :param limits: how much one owner may store
    :param timeout: seconds that a call waits for other writers
    :param keep_ended: seconds for which the storage must remember that a session has ended: as long as its cookie could
        be replayed
    :param synchronous: ``"FULL"`` when an acknowledged write has to survive a power loss
    :param must_exist: whether a file that is not there is an error, instead of being made
    """

    folder: Path
    limits: Limits = DEFAULT_LIMITS
    timeout: float = DEFAULT_TIMEOUT
    keep_ended: float = math.inf
    synchronous: Synchronous = "NORMAL"
    must_exist: bool = False


class Stat(NamedTuple):
    """How much an owner has.

    :ivar expires: when it expires, in seconds since the epoch; None for an owner without values
    :ivar nbytes: bytes of its keys and values
    :ivar keys: how many keys it has
    :ivar user: the hash of the user whose session it is; None for no user's
    """

    expires: float | None = None
    nbytes: int = 0
    keys: int = 0
    user: bytes | None = None


class ValueInfo(NamedTuple):
    """What is known of a value without reading it: its key, its bytes with those of the key, and when it expires.

    ``expires`` is when the key is gone by itself, in seconds since the epoch; None for never. ``is_large`` says whether
    it has buffers.
    """

    key: str
    nbytes: int
    expires: float | None
    is_large: bool


class SessionInfo(NamedTuple):
    """A session of a user.

    :ivar owner: whose values these are
    :ivar created_at: when its first value was stored, in seconds since the epoch
    :ivar expires: when its values expire, in seconds since the epoch
    :ivar nbytes: bytes of its keys and values
    """

    owner: Owner
    created_at: float
    expires: float
    nbytes: int


class ExpiryLimit(NamedTuple):
    """No owner whose name begins with ``prefix`` expires after ``latest``, in seconds since the epoch."""

    prefix: str
    latest: float


class Removed(NamedTuple):
    """What one call of :meth:`Storage.maintain` has removed.

    :ivar owners: how many owners
    :ivar keys: how many keys, of those that have expired by themselves
    :ivar has_more: whether there is more to do
    """

    owners: int = 0
    keys: int = 0
    has_more: bool = False


class OwnersValues(ABC):
    """The values of an owner, by key: what the mapping of a store needs of a storage."""

    # Reading

    @abstractmethod
    def get(self, owner: Owner, key: str, access: Access) -> Stored | None:
        """The value under the key; None when there is none.

        The caller may change its buffers without changing what is stored.
        """

    @abstractmethod
    def has(self, owner: Owner, key: str, access: Access) -> bool:
        """Whether there is a value under the key."""

    @abstractmethod
    def keys(self, owner: Owner, access: Access, limit: int | None = None, newest_first: bool = False) -> list[str]:
        """The owner's keys, first inserted first; an overwrite keeps a key where it is.

        :param limit: how many at most, from the beginning of the order. A few cost as much of many as of few.
        :param newest_first: whether the order is the other way round
        """

    @abstractmethod
    def items(self, owner: Owner, access: Access) -> list[tuple[str, Stored]]:
        """The owner's keys and values as they are at one point in time, in the order of :meth:`keys`."""

    @abstractmethod
    def stat(self, owner: Owner, access: Access) -> Stat:
        """How much the owner has, and whose session it is; of an owner without values, an expiry of None and zeros.

        It is not a use: it moves nothing. It costs as much of many keys as of few.
        """

    @abstractmethod
    def describe(self, owner: Owner, access: Access) -> list[ValueInfo]:
        """What is known of the owner's values, in the order of :meth:`keys`. None is read, and it is not a use.

        A time before all times asks for what has expired and is not removed yet, too.
        """

    def versions(self, owner: Owner, keys: Collection[str] | None, access: Access) -> dict[str, bytes]:
        """By which a value is told from those that were under its key before: the last bytes of each payload.

        There are up to :data:`VERSION_BYTES` of them, which is where a payload that is signed has its MAC. No value is
        read, and it is not a use. It is asked often: one round trip does it for all keys.

        :param keys: whose versions are asked for; None for all of the owner's
        :returns: those of the keys that there are, in any order
        """
        unused = access._replace(touch_threshold=math.inf)
        names = self.keys(owner, unused) if keys is None else keys
        found = ((key, self.get(owner, key, unused)) for key in names)
        return {key: stored[0][-VERSION_BYTES:] for key, stored in found if stored is not None}

    # Writing

    @abstractmethod
    def set(self, owner: Owner, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        """Store the value under the key, whether there is one or not.

        :param key_expires: seconds since the epoch at which this key is gone, whatever the owner's expiry; None for
            never, ``"keep"`` for what it was
        :raises QuotaExceeded: when the owner's values together would be larger than they may be
        :raises TooManyKeys: when the owner would have more keys than it may
        """

    def set_all(self, owner: Owner, values: Iterable[tuple[str, Stored]], access: Access) -> None:
        """Store several values: all of them, or on an error none. The errors are those of :meth:`set`."""
        with self.transaction(owner):
            for key, value in values:
                self.set(owner, key, value, access)

    def replace(self, owner: Owner, key: str, former: bytes, value: Stored, access: Access) -> bool:
        """Store the value if what is stored under the key is still what was read. Returns whether it is.

        A key's own expiry stays. The errors are those of :meth:`set`.

        :param former: the payload of what was read
        """
        with self.transaction(owner):
            present = self.get(owner, key, access)
            if present is None or present[0] != former:
                return False
            self.set(owner, key, value, access, "keep")
            return True

    @abstractmethod
    def expire(self, owner: Owner, key: str, key_expires: float | None, access: Access) -> bool:
        """Set when the key is gone, in seconds since the epoch; None for never. Returns whether there is such a key."""

    @abstractmethod
    def delete(self, owner: Owner, key: str, access: Access) -> bool:
        """Delete the key. Returns whether there was one."""

    @abstractmethod
    def clear(self, owner: Owner, access: Access) -> None:
        """Delete all keys of the owner."""

    @abstractmethod
    def transaction(self, owner: Owner) -> AbstractContextManager[object]:
        """A block in which all calls for the owner are atomic together, and no other context writes to the owner.

        An exception that leaves the block rolls back all of it, and what was written to other owners in it. Blocks
        nest: an inner one is a savepoint, which can be rolled back by itself. What is to happen after a commit or a
        rollback is registered with ``on_commit`` and ``on_rollback`` of the
        :class:`~flask_dash_store.storage.transaction.Transaction`.

        :raises StorageBusy: on entering, when others write for longer than the timeout
        """


class Storage(OwnersValues):
    """A backend: values by (owner, key), with each owner's expiry."""

    # Sessions as a whole

    @abstractmethod
    def renew(self, owner: Owner, session: bytes, access: Access, user: bytes | None = None) -> None:
        """From now on another session id opens the owner's values. An owner without values is remembered, too.

        :param session: the SHA-256 of the new id
        :param user: a hash of the user who has logged in, by which :meth:`sessions` finds the session; None leaves it.
            It is kept as long as the owner's expiry is in the future, with values or without.
        """

    @abstractmethod
    def current(self, owner: Owner, access: Access) -> Owner:
        """The owner of this name with the session that opens its values now, whichever ``owner.session`` is.

        A job asks, which has begun under a session id and goes on when a login has replaced that. It is not a use. When
        nothing is known of the owner, it is as it was given, for the first write will decide.

        :raises SessionEnded: when the session has ended, so that nothing opens them
        """

    @abstractmethod
    def end(self, owner: Owner, access: Access) -> float:
        """End the session: its id never opens anything again, and its values are deleted, now or by maintenance.

        Returns when it ended, in seconds since the epoch: now, or earlier if it had ended or been renewed before. That
        is not an error.
        """

    @abstractmethod
    def sessions(self, user: bytes, access: Access) -> list[SessionInfo]:
        """The sessions of a user that have neither ended nor expired, oldest first."""

    @abstractmethod
    def owners(self, prefix: str, access: Access) -> list[str]:
        """The names of owners that begin with the prefix, of those who have values, in the order of the names."""

    # Maintenance, and the end

    @property
    def needs_maintenance(self) -> bool:
        """Whether :meth:`maintain` has something to do that should be done soon, after this response."""
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
        """Remove what has expired, forget owners that ended long ago, and give the space back.

        One call does a little, so that no writer waits long for it; while the result ``has_more``, call again. A
        storage whose server removes what has expired by itself has nothing to do unless ``wait``.

        :param now: what has expired by then is removed; seconds since the epoch
        :param ended_before: owners that were renewed or ended before then, and have expired, are forgotten; seconds
            since the epoch
        :param expiry_limit: finite expiries that lie after it are brought forward to it. Such expiries come from a
            clock that has been stepped back since.
        :param wait: whether to wait for other writers; without it, what they hold is left for the next call
        :param expired: called once for each owner whose values have expired, with those of their keys that were still
            there, after the commit that removed them: it holds up no other writer. A storage whose server removes what
            has expired by itself does not call it.
        :raises StorageBusy: when others write for longer than the timeout; without ``wait``, when others write now
        """

    @abstractmethod
    def close(self) -> None:
        """Release what the storage holds. Any later call raises StorageClosed; a second close does nothing."""


class Dump(NamedTuple):
    """All that a storage keeps of an owner, in a form that any storage takes. Times are seconds since the epoch.

    :ivar expires: the owner's expiry; infinity for values that are kept until they are deleted
    :ivar session: the SHA-256 of the session id that opens the values; None for those of a user id, :data:`ENDED` once
        the session has ended
    :ivar renewed_at: when it was renewed or ended last; None for never
    :ivar values: in the order of their keys
    :ivar damaged: the keys of values that cannot be read
    :ivar user: the hash of the user whose session it is; None for no user's
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
    """A storage whose owners can be copied, one by one, into another storage."""

    @abstractmethod
    def all_owners(self) -> Iterator[str]:
        """The names of the owners that it knows, expired and ended ones too, in any order.

        Each owner that is there from beginning to end is given once. One that comes or goes meanwhile may be given.
        """

    @abstractmethod
    def dump(self, name: str) -> Dump | None:
        """All that is kept of the owner of this name, at one point in time; None when nothing is. It is not a use."""

    @abstractmethod
    def load(self, name: str, dump: Dump) -> None:
        """Replace all that is kept of the owner of this name by what was dumped, whatever the owner's limits are."""

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """What is damaged, each as a sentence. It may take long; other calls are answered meanwhile."""


Progress = Callable[[int, int], object]
"""Gets how much of some work is done, and of how much, in the same unit."""


def no_progress(done: int, total: int) -> None:
    """For work that is not watched."""


class SupportsBackup(ABC):
    """A storage that can be copied as a whole, at one point in time, into files."""

    @abstractmethod
    def back_up(self, target: Path, progress: Progress = no_progress) -> list[str]:
        """Copy what is stored at one point in time into a new file, while others read and write.

        :param progress: called from time to time
        :returns: the values that are damaged, and left out, each as ``owner/key``
        :raises StorageError: when the file exists, or cannot be written; no directory is made for it
        """

    @abstractmethod
    def inspect_backup(self, source: Path, now: float) -> Totals:
        """How much a backup holds, which is whole. Nothing is restored.

        :param now: what has expired by then does not count; seconds since the epoch
        :raises StorageError: when there is no backup, or it cannot be read
        """

    @abstractmethod
    def restore(self, source: Path, progress: Progress = no_progress) -> None:
        """Replace all that is stored by what a backup holds.

        A session that has ended since the backup stays ended, and one that has got another id since keeps it.

        :param progress: called from time to time
        :raises StorageError: when there is no backup, or it cannot be read; nothing has changed
        """
