"""A user store as a whole: the views of its keys, values and items, and what else reads all of it.

What reads several values reads them as they are at one point in time, so that a key which a request in parallel adds or
removes meanwhile does not disturb it: for values and items, and where there are at most :data:`FEW` keys, when an
iteration begins. Of more keys, the first is read when it begins, and all others, at one point in time, when the second
is asked for, so that ``next(iter(store))`` costs as much of many keys as of few.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from enum import Enum
from typing import Any, Final


class Missing(Enum):
    """What is returned instead of a value that is not there, where None can be one; and a default that is not given."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Final = Missing.MISSING

FEW = 10


class SnapshotMapping(MutableMapping[str, Any]):
    """A dict of which all is read at once, where all is asked for."""

    @abstractmethod
    def copy(self) -> dict[str, Any]:
        """All keys and values as they are at one point in time, as a plain dict."""

    @abstractmethod
    def _keys(self, limit: int | None = None) -> list[str]:
        """The keys at present, first inserted first: so many of them at most, or all."""

    @abstractmethod
    def _last_keys(self, limit: int | None = None) -> list[str]:
        """The same, last inserted first."""

    def __iter__(self) -> Iterator[str]:
        return _iterate(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return _iterate(self._last_keys)

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
        """A plain dict, for a store belongs to a visitor and cannot be made from keys.

        :param keys: those of the dict
        :param value: what is under each of them
        """
        return dict.fromkeys(keys, value)


def as_snapshot(other: Any) -> Any:
    """An argument for ``dict``. A store is read at one point in time, where ``dict`` would read it key by key."""
    return other.copy() if isinstance(other, SnapshotMapping) else other


def _iterate(read: Callable[[int | None], list[str]]) -> Iterator[str]:
    """Go through the keys of a store.

    :param read: gives the keys at present: so many of them at most, or all
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
