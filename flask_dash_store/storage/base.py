"""What every storage promises.

A storage keeps values by owner and key, and one expiry for each owner. A value is a payload (bytes), and a body if
it is large; the storage knows nothing of what they mean, nor of cookies, requests and settings. These hold for each
method:

- It may be called from any thread of any process, before and after a fork.
- What is missing, and what has expired at ``access.now``, is absent: a method returns what its docstring says,
  and never raises for it.
- Each is atomic. Inside :meth:`Storage.transaction` they are atomic together.
- An owner whose session was ended raises :class:`~flask_dash_store.errors.SessionEnded`, on reads and on writes.
- A fault raises a :class:`~flask_dash_store.errors.StorageError` in the call that met it, and changes nothing.
  No call waits longer than the storage's timeout for other writers.
- Reading or writing an owner's values is a use: it moves the owner's expiry to ``access.expires``, when
  ``access.is_touch_due``. A read that cannot move it at once leaves that to the next use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import ClassVar, Literal, NamedTuple

from ..buffers import Stored
from ..expiry import Access

ReSign = Callable[[str, bytes], bytes]
KeyExpiry = float | None | Literal["keep"]
Synchronous = Literal["NORMAL", "FULL"]


Value = tuple[str, Stored, float | None]
"""A key, what is stored under it, and when it expires by itself, if it does."""


class Dump(NamedTuple):
    """All that a storage keeps of an owner, in a form that any storage takes.

    Times are in seconds since the epoch. An owner that was ended has a time when it was, and no values; of the
    others, ``expires`` is infinity for those who are kept until they are deleted. Values are in the order of their
    keys; ``damaged`` are the keys of those that cannot be read.
    """

    expires: float
    ended_at: float | None
    values: list[Value]
    damaged: tuple[str, ...] = ()


class Storage(ABC):
    """A backend: values by (owner, key), with each owner's expiry."""

    purges_itself: ClassVar[bool] = False
    """Whether what has expired, and what is known of the ended, goes without :meth:`purge` and :meth:`purge_keys`."""

    @abstractmethod
    def get(self, owner: str, key: str, access: Access) -> Stored | None:
        """The value under the key; None when there is none.

        Its body is a copy to the caller, who may change it.
        """

    @abstractmethod
    def has(self, owner: str, key: str, access: Access) -> bool:
        """Whether there is a value under the key."""

    @abstractmethod
    def keys(self, owner: str, access: Access) -> list[str]:
        """The owner's keys, first inserted first; an overwrite keeps a key's place."""

    @abstractmethod
    def items(self, owner: str, access: Access) -> list[tuple[str, Stored]]:
        """The owner's keys and values as they are at one point in time, in the order of :meth:`keys`."""

    @abstractmethod
    def count(self, owner: str, access: Access) -> int:
        """How many keys the owner has."""

    @abstractmethod
    def set(self, owner: str, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        """Store the value under the key, whether there is one or not.

        :param key_expires: seconds since the epoch at which this key is gone, whatever the owner's expiry;
            None for never, ``"keep"`` for what it was
        :raises QuotaExceeded: when the owner's values together would be larger than they may be
        :raises TooManyKeys: when the owner would have more keys than it may
        """

    @abstractmethod
    def expire(self, owner: str, key: str, key_expires: float | None, access: Access) -> bool:
        """Set when the key is gone, None for never. Returns whether there is such a key."""

    @abstractmethod
    def delete(self, owner: str, key: str, access: Access) -> bool:
        """Delete the key. Returns whether there was one."""

    @abstractmethod
    def clear(self, owner: str, access: Access) -> None:
        """Delete all keys of the owner."""

    @abstractmethod
    def expiry(self, owner: str, access: Access) -> float | None:
        """When the owner's values will be gone, in seconds since the epoch; None when there are none.

        To ask for it is no use: it moves nothing.
        """

    @abstractmethod
    def nbytes(self, owner: str, access: Access) -> int:
        """How many bytes the owner's keys and values take; 0 when there are none. It is no use either.

        A storage may count in blocks."""

    @abstractmethod
    def move(self, owner: str, new_owner: str, re_sign: ReSign, access: Access) -> None:
        """Give all values of an owner to a new one, and end the old one.

        :param re_sign: gives the new owner's payload for a key and its payload
        """

    @abstractmethod
    def end(self, owner: str, access: Access) -> float:
        """Delete all values of an owner and end it. Returns when it ended: now, or earlier if it had ended before."""

    @abstractmethod
    def owners(self, prefix: str, access: Access) -> list[str]:
        """The owners whose names begin with the prefix and who have values, in the order of their names."""

    @abstractmethod
    def limit_expiry(self, prefix: str, latest: float) -> None:
        """Bring forward what lies after ``latest`` of the finite expiries of the owners whose names begin so.

        Only a clock that has been stepped back leaves such expiries.
        """

    @abstractmethod
    def purge(self, now: float, ended_before: float, limit: int, wait: bool = False) -> int:
        """Remove at most ``limit`` of the owners that have expired, and of those that ended before ``ended_before``.

        Returns how many owners were removed. Files and the like that a crash has left behind may go too.

        :param wait: whether to wait for other writers, instead of raising StorageBusy when there is one, or passing
            over what they write to. Who does not wait is not kept for long either: a little is done, and ``limit``
            is returned if there is more to do.
        """

    @abstractmethod
    def purge_keys(self, now: float, limit: int, wait: bool = False) -> int:
        """Remove at most ``limit`` of the keys that have expired by themselves. Returns how many were removed.

        :param wait: whether to wait for other writers, instead of raising StorageBusy when there is one
        """

    @property
    def is_untidy(self) -> bool:
        """Whether :meth:`tidy` has something to do."""
        return False

    def tidy(self) -> None:  # noqa: B027  # Most have nothing to do.
        """Do what no answer has to wait for."""

    @abstractmethod
    def transaction(self, owner: str) -> AbstractContextManager[None]:
        """A block in which all calls for the owner are atomic together, and no one else writes to the owner.

        An exception that leaves the block undoes all of it, and what was written to other owners in it. Blocks nest:
        an inner one can fail by itself.
        """

    @abstractmethod
    def everyone(self) -> Iterator[str]:
        """The owners that it knows, expired and ended ones too, in any order.

        Each that it knows from beginning to end is given once. One that comes or goes meanwhile may be given.
        """

    @abstractmethod
    def dump(self, owner: str) -> Dump | None:
        """All that is kept of the owner, at one point in time; None when nothing is. It is no use."""

    @abstractmethod
    def load(self, owner: str, dump: Dump) -> None:
        """Put what was dumped in the place of all that is kept of the owner, whatever the owner's limits are."""

    def problems(self) -> Iterator[str]:
        """What is damaged, each as a sentence. It may take long, and others work meanwhile."""
        return iter(())

    @abstractmethod
    def on_rollback(self, call: Callable[[], None]) -> None:
        """Have something called if the transaction that the caller is in is undone. Outside of one, nothing is."""

    @abstractmethod
    def close(self) -> None:
        """Release what the storage holds. Any later call raises StorageClosed; a second close does nothing."""
