"""The views that a user store gives of its keys, values and items, and how its keys are gone through.

An iteration goes through the store as it was at one point in time, so that a key which a request in parallel adds or
removes meanwhile does not disturb it: for values and items, and where there are at most :data:`FEW` keys, when it
begins. Of more keys, the first is read when it begins, and all others, at one point in time, when the second is asked
for, so that ``next(iter(store))`` costs as much of many keys as of few.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from .storage.base import ValueInfo

if TYPE_CHECKING:
    from .mapping import StoredMapping


class Missing(Enum):
    """What is returned instead of a value that is not there, where None can be one; and a default that is not given."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Final = Missing.MISSING

FEW = 10


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


def iterate(read: Callable[[int | None], list[str]]) -> Iterator[str]:
    """Go through the keys of a store.

    :param read: gives the keys at present: so many of them at most, or all
    """
    keys = read(FEW + 1)
    return iter(keys) if len(keys) <= FEW else _first_and_others(keys[0], read)


def _first_and_others(first: str, read: Callable[[int | None], list[str]]) -> Iterator[str]:
    yield first
    yield from (key for key in read(None) if key != first)


class Keys(KeysView[str]):
    _mapping: StoredMapping

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._mapping

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._mapping)


class Values(ValuesView[Any]):
    _mapping: StoredMapping

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mapping.copy().values())

    def __contains__(self, value: object) -> bool:
        return any(value is stored or value == stored for stored in self)

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self._mapping.copy().values())


class Items(ItemsView[str, Any]):
    _mapping: StoredMapping

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._mapping.copy().items())

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)):
            return False
        value = self._mapping.get(item[0], MISSING)
        return value is not MISSING and (value is item[1] or value == item[1])

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        return reversed(self._mapping.copy().items())
