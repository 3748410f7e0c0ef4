"""The views that a user store gives of its keys, values and items, and how its keys are gone through.

An iteration goes through the store as it was at one point in time, so that a key which a request in parallel adds or
removes meanwhile does not disturb it: for values and items, and where there are at most :data:`FEW` keys, when it
begins. Of more keys, the first is read when it begins, and all others, at one point in time, when the second is asked
for, so that ``next(iter(store))`` costs as much of many keys as of few.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .mapping import StoredMapping

_MISSING: Final = object()

FEW = 10


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
        value = self._mapping.get(item[0], _MISSING)
        return value is not _MISSING and (value is item[1] or value == item[1])

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        return reversed(self._mapping.copy().items())
