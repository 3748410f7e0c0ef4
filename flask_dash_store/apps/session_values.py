"""The values of one request's ``flask.session``, and what the request has changed of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, Final

from flask.sessions import session_json_serializer

from ..codec import raised_by_signal_handler
from ..settings import Settings

FLASHES = "_flashes"

_ABSENT: Final = object()
_UNCHANGING = frozenset({str, bytes, int, float, bool, type(None)})


def serialize(values: Mapping[str, Any], settings: Settings) -> dict[str, Any] | str:
    """The values of a session, as one value of the store."""
    # JSON has neither the tuples of flashed messages nor dates. Flask's serializer tags them.
    return session_json_serializer.dumps(values) if settings.codec == "json" else dict(values)


def user_of(values: Mapping[str, Any], key: str | None) -> str | int | None:
    """The id of the user who is logged in, from a session's values; None if there is none.

    :param key: the key that holds it; None if the app keeps track of logins by itself
    """
    user = None if key is None else values.get(key)
    return user if user is None or isinstance(user, int) else str(user)


class SessionValues(dict[str, Any]):
    """The values as the request sees and changes them.

    Changes are found by comparing, at any depth. So an append to a list is found, and setting a value to what it was
    is no change.

    :param read: the stored values that the request has read
    """

    def __init__(self, read: Mapping[str, Any]) -> None:
        super().__init__(read)
        self._before = self._now = {key: _fingerprint(value) for key, value in read.items()}
        self._flashes = list(read.get(FLASHES, ()))

    def changes(self) -> list[str]:
        """The keys that were added, changed or removed."""
        before = self._before
        self._now = now = {key: _fingerprint(value) for key, value in self.items()}
        changed = [key for key, each in now.items() if not _is_same(before.get(key, _ABSENT), each)]
        return changed + [key for key in before if key not in self]

    def unstorable(self) -> list[str]:
        """The keys whose values cannot be pickled, among what the last :meth:`changes` found."""
        return [key for key, each in self._now.items() if type(each) is object]

    def mark_saved(self) -> None:
        """Take what the last :meth:`changes` found as stored."""
        self._before, self._flashes = self._now, list(self.get(FLASHES, ()))

    def merged(self, present: Mapping[str, Any]) -> dict[str, Any]:
        """The values that are stored now, with the changes. Flashed messages are a list, which is merged by item."""
        merged = dict(present)
        for key in self.changes():
            if key == FLASHES:
                value = _merged_lists(self._flashes, self.get(key, []), merged.get(key, [])) or _ABSENT
            else:
                value = self.get(key, _ABSENT)
            if value is _ABSENT:
                merged.pop(key, None)
            else:
                merged[key] = value
        return merged


def _fingerprint(value: Any) -> Any:
    """An object that compares unequal once the value has changed, at any depth."""
    if type(value) in _UNCHANGING:
        return value
    try:
        return (pickle.dumps(value),)
    except Exception as error:
        if raised_by_signal_handler(error):
            raise
        return object()  # Equal to nothing, so the value is stored, and the error says what is wrong with it.


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)  # True == 1, but they are not the same value.


def _merged_lists(before: list[Any], now: list[Any], present: list[Any]) -> list[Any]:
    """The list that is stored now, with the items removed and added that differ between ``before`` and ``now``."""
    return _without(present, _without(before, now)) + _without(now, before)


def _without(items: list[Any], others: list[Any]) -> list[Any]:
    """The items, with each of the others removed once."""
    kept = list(items)
    for other in others:
        if other in kept:
            kept.remove(other)
    return kept
