"""A user store as a whole: the views of its keys, values and items, and the operations that read all of it.

Iterating over values or items reads all of them at one point in time, when the iteration begins. So a parallel request
that adds or removes a key does not disturb it. Iterating over at most :data:`FEW` keys does the same. With more keys,
it reads the first key alone, and the others, at one point in time, when the second is needed. So ``next(iter(store))``
does not take longer with many keys.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from enum import Enum
from functools import partial
from typing import Any, Final


class Missing(Enum):
    """A marker for a missing value, or a default that is not given, where None may be a value."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Final = Missing.MISSING

FEW = 10


class SnapshotMapping(MutableMapping[str, Any]):
    """A mapping whose operations on all values read a snapshot: all of them at one point in time."""

    @abstractmethod
    def copy(self) -> dict[str, Any]:
        """All keys and values as they are at one point in time, as a plain dict."""

    @abstractmethod
    def _keys(self, limit: int | None = None, newest_first: bool = False) -> list[str]:
        """The current keys, in order of insertion.

        :param limit: the maximum number of keys; None for all
        :param newest_first: whether to reverse the order
        """

    def __iter__(self) -> Iterator[str]:
        return _iterate(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return _iterate(partial(self._keys, newest_first=True))

    def keys(self) -> KeysView[str]:
        """A view of the keys, first inserted first."""
        return Keys(self)

    def values(self) -> ValuesView[Any]:
        """A view of the values, in the order of the keys."""
        return Values(self)

    def items(self) -> ItemsView[str, Any]:
        """A view of the pairs of key and value, in the order of the keys."""
        return Items(self)

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return self.copy()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.copy() == dict(as_snapshot(other))

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.copy() | dict(as_snapshot(other))

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(other) | self.copy()

    @classmethod
    def fromkeys(cls, keys: Iterable[str], value: Any = None) -> dict[str, Any]:
        """A plain dict, because a store belongs to a visitor and cannot be created from keys.

        :param keys: the keys of the dict
        :param value: the value of each key
        """
        return dict.fromkeys(keys, value)


def as_snapshot(other: Any) -> Any:
    """An argument for ``dict()``. A store becomes a snapshot, because ``dict(store)`` would read it key by key."""
    return other.copy() if isinstance(other, SnapshotMapping) else other


def _iterate(read: Callable[[int | None], list[str]]) -> Iterator[str]:
    """Iterate over the keys of a store.

    :param read: returns the current keys, at most as many as given
    """
    keys = read(FEW + 1)
    return iter(keys) if len(keys) <= FEW else _first_and_others(keys[0], read)


def _first_and_others(first: str, read: Callable[[int | None], list[str]]) -> Iterator[str]:
    yield first
    yield from (key for key in read(None) if key != first)


class Keys(KeysView[str]):
    _mapping: SnapshotMapping

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._mapping

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._mapping)


class Values(ValuesView[Any]):
    _mapping: SnapshotMapping

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mapping.copy().values())

    def __contains__(self, value: object) -> bool:
        return any(value is stored or value == stored for stored in self)

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self._mapping.copy().values())


class Items(ItemsView[str, Any]):
    _mapping: SnapshotMapping

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._mapping.copy().items())

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)):
            return False
        value = self._mapping.get(item[0], MISSING)
        return value is not MISSING and (value is item[1] or value == item[1])

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        return reversed(self._mapping.copy().items())
