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

    What has changed is found by comparing, in whatever depth, so that neither a list that was appended to is missed nor
    a value that was only set again counts.

    :param read: what is stored, as the request has read it
    """

    def __init__(self, read: Mapping[str, Any]) -> None:
        super().__init__(read)
        self._before = self._now = {key: _fingerprint(value) for key, value in read.items()}
        self._flashes = list(read.get(FLASHES, ()))

    def changes(self) -> list[str]:
        """The keys of what was added, changed, or removed."""
        before = self._before
        self._now = now = {key: _fingerprint(value) for key, value in self.items()}
        changed = [key for key, each in now.items() if not _is_same(before.get(key, _ABSENT), each)]
        return changed + [key for key in before if key not in self]

    def mark_saved(self) -> None:
        """What :meth:`changes` has found is stored, and is no change any more."""
        self._before, self._flashes = self._now, list(self.get(FLASHES, ()))

    def merged(self, present: Mapping[str, Any]) -> dict[str, Any]:
        """What is stored at present, with the changes. Flashed messages are a list that both may have changed."""
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
    """What is another when the value has changed inside."""
    if type(value) in _UNCHANGING:
        return value
    try:
        return (pickle.dumps(value),)
    except Exception as error:
        if raised_by_signal_handler(error):
            raise
        return object()  # It counts as changed, so it is stored, and the error says what is wrong with it.


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)  # True equals 1, and is not the same.


def _merged_lists(before: list[Any], now: list[Any], present: list[Any]) -> list[Any]:
    """What is there at present, without what has been taken from ``before``, and with what was added to it."""
    return _without(present, _without(before, now)) + _without(now, before)


def _without(items: list[Any], others: list[Any]) -> list[Any]:
    """The items, less each of the others once."""
    kept = list(items)
    for other in others:
        if other in kept:
            kept.remove(other)
    return kept
