"""What can be done with a store, and a model of what a store then holds: for tests/contract/test_stateful.py.

A deed is a name and arguments that another process can be sent. It does the same to a store and to a model.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, Self

from flask_dash_store import NotANumber, NotEditable, SessionEnded
from flask_dash_store.expiry import Clock

TTL = 1000.0
LARGE_BYTES = 150_000

Deed = tuple[Any, ...]
Outcome = tuple[str, Any]


class Large(NamedTuple):
    """Stands for a value that is large, and tells by each byte which one it is."""

    number: int

    @property
    def value(self) -> bytes:
        return bytes([self.number]) * LARGE_BYTES


def stored(value: Any) -> Any:
    return value.value if isinstance(value, Large) else value


def shown(value: Any) -> Any:
    """A value as a test compares it."""
    if isinstance(value, bytes) and value:
        large = Large(value[0])
        return large if value == large.value else ("torn", value)
    if isinstance(value, dict):
        return {key: shown(each) for key, each in value.items()}
    return tuple(map(shown, value)) if type(value) is tuple else value


class Model(dict[str, Any]):
    """A store that one thread of one process uses, and that nothing ever happens to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.expires = 0.0
        self.key_expires: dict[str, float] = {}

    def clone(self) -> Model:
        other = Model(self._clock)
        other.update(self)
        other.expires, other.key_expires = self.expires, dict(self.key_expires)
        return other

    def identity(self) -> str:
        """The same for two models that nothing will ever tell apart."""
        return repr((list(self.items()), sorted(self.key_expires.items()), self.expires))

    def use(self) -> None:
        """Forget what has expired, and begin the idle time again."""
        now = self._clock()
        for key in list(self):
            if now >= min(self.expires, self.key_expires.get(key, self.expires)):
                del self[key]
        self.key_expires = {key: time for key, time in self.key_expires.items() if key in self}
        self.expires = now + TTL

    def set(self, key: str, value: Any, ttl: float) -> None:
        self[key] = value
        self.key_expires[key] = self._clock() + ttl

    def __setitem__(self, key: str, value: Any) -> None:
        self.key_expires.pop(key, None)
        super().__setitem__(key, value)

    def update(self, other: dict[str, Any]) -> None:
        for key, value in other.items():
            self[key] = value

    def expire(self, key: str, ttl: float) -> None:
        self.set(key, self[key], ttl)

    def increment(self, key: str, by: int) -> int:
        number = self.get(key, 0)
        if not isinstance(number, int):
            raise NotANumber
        super().__setitem__(key, number + by)
        return number + by

    @contextmanager
    def edit(self, key: str, default: Any) -> Iterator[Any]:
        value = deepcopy(self.get(key, default))
        if not isinstance(value, list):
            raise NotEditable
        yield value
        super().__setitem__(key, value)

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        before, key_expires = dict(self), dict(self.key_expires)
        try:
            yield self
        except ZeroDivisionError:
            self.clear()
            super().update(before)
            self.key_expires = key_expires
            raise


def attempt(store: Any, deed: Deed) -> Outcome:
    """Do a deed, and say what it returned or raised."""
    name, *args = deed
    is_model = isinstance(store, Model)
    if is_model:
        store.use()
    try:
        result = DEEDS[name](store, *(args if is_model else map(_all_stored, args)))
    except (KeyError, ZeroDivisionError, NotANumber, NotEditable, SessionEnded) as error:
        return "raised", type(error).__name__
    return "returned", shown(result)


def _all_stored(argument: Any) -> Any:
    if type(argument) is dict:
        return {key: stored(value) for key, value in argument.items()}
    return stored(argument)


def _set(store: Any, key: str, value: Any) -> None:
    store[key] = value


def _delete(store: Any, key: str) -> None:
    del store[key]


def _append(store: Any, key: str, item: int) -> None:
    with store.edit(key, []) as value:
        value.append(item)


def _transact(store: Any, deeds: list[Deed], end: str) -> tuple[Outcome, ...]:
    """:param end: how the block ends: "commit", "fail", or "die" with its process"""
    with store.transaction():
        outcomes = _burst(store, deeds)
        if end == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "fail":
            raise ZeroDivisionError
    return outcomes


def _burst(store: Any, deeds: list[Deed]) -> tuple[Outcome, ...]:
    return tuple(attempt(store, deed) for deed in deeds)


DEEDS: dict[str, Callable[..., Any]] = {
    "set": _set,
    "set for a while": lambda store, key, value, ttl: store.set(key, value, ttl),
    "expire": lambda store, key, ttl: store.expire(key, ttl),
    "delete": _delete,
    "append": _append,
    "pop": lambda store, key: store.pop(key),
    "popitem": lambda store: store.popitem(),
    "setdefault": lambda store, key, value: store.setdefault(key, value),
    "increment": lambda store, key, by: store.increment(key, by),
    "update": lambda store, items: store.update(items),
    "clear": lambda store: store.clear(),
    "get": lambda store, key: store.get(key),
    "copy": lambda store: store.copy(),
    "transact": _transact,
    "burst": _burst,
    "regenerate": lambda store: store.regenerate(),
    "destroy": lambda store: store.destroy(),
}
