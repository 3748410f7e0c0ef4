"""A user store is a mapping as dict is: it passes CPython's own tests, and any calls side by side with a dict.

Where CPython's TestMappingProtocol had to be changed, a user store differs from a dict, for these reasons:

- ``test_values``, ``test_items``, ``test_clear``, ``test_update`` and ``test_copy`` use ints as keys, which a store
  refuses: with text alone there is no doubt whether ``1`` and ``"1"`` are one key. They run here with text.
- ``test_setdefault`` changes the list that ``setdefault`` returned and expects it changed in the mapping. What a
  store returns is a copy, for the value lies in a database; ``edit`` changes a value in place, and is used here.
- ``test_copy`` and ``test_fromkeys`` expect the mapping's own class. A store belongs to one visitor, so a copy of it
  is not a visitor's store: both give a plain dict.
- ``test_constructor`` gives the constructor items. A store is made by the middleware, so the constructor here is a
  function that asks the middleware for a fresh store and updates it; all tests use it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test import mapping_tests  # some systems have it in a package of its own: on Debian, libpython3-testsuite

from flask_dash_store import UserStore, UserStoreMiddleware

Act = Callable[[Any, str, Any], object]

_app = Flask(__name__)
_app.secret_key = "k" * 32
_middleware = UserStoreMiddleware(_app, url="sqlite://:memory:")
_serial = count()


def fresh_store(*args: Any, **items: Any) -> UserStore:
    store = _middleware.for_user(next(_serial))
    store.update(*args, **items)
    return store


class TestMappingProtocol(mapping_tests.TestMappingProtocol):
    type2test = staticmethod(fresh_store)

    def test_values(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_values(self)
        assert list(self._full_mapping({"1": 2}).values()) == [2]

    def test_items(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_items(self)
        assert list(self._full_mapping({"1": 2}).items()) == [("1", 2)]

    def test_clear(self) -> None:
        store = self._full_mapping({"1": 1, "2": 2, "3": 3})
        store.clear()
        assert store == {}
        with pytest.raises(TypeError):
            store.clear(None)

    def test_update(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_update(self)
        for arguments in ([{"1": 100}], [[("1", 100)]], [iter([("1", 100)])], [fresh_store({"1": 100}).items()]):
            store = self._full_mapping({"1": 1, "2": 2})
            store.update(*arguments)
            assert store == {"1": 100, "2": 2}
            store.update()
            store.update(*arguments, x=1, y=2)
            assert store == {"1": 100, "2": 2, "x": 1, "y": 2}

    def test_setdefault(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_setdefault(self)
        store = self._empty_mapping()
        assert store.setdefault("key0") is None
        store.setdefault("key0", [])
        assert store.setdefault("key0") is None
        for n in (3, 4):
            with store.edit("key", []) as value:
                value.append(n)
        assert store.setdefault("key", []) == [3, 4]

    def test_copy(self) -> None:
        store = self._full_mapping({"1": 1, "2": 2, "3": 3})
        assert store.copy() == {"1": 1, "2": 2, "3": 3}
        assert type(store.copy()) is dict
        store = self._empty_mapping()
        assert store.copy() == store
        with pytest.raises(TypeError):
            store.copy(None)

    def test_fromkeys(self) -> None:
        for fromkeys in (UserStore.fromkeys, self._empty_mapping().fromkeys):
            assert fromkeys("abc") == {"a": None, "b": None, "c": None}
            assert fromkeys((key for key in "45"), 0) == {"4": 0, "5": 0}
            assert (fromkeys([]), type(fromkeys([]))) == ({}, dict)
            with pytest.raises(TypeError):
                fromkeys(3)


KEYS = st.sampled_from("abc") | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/%"), min_size=1, max_size=6
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)

ACTS: dict[str, Act] = {
    "[key] = value": operator.setitem,
    "[key]": lambda mapping, key, value: mapping[key],
    "del [key]": lambda mapping, key, value: operator.delitem(mapping, key),
    "get": lambda mapping, key, value: (mapping.get(key), mapping.get(key, value)),
    "in": lambda mapping, key, value: key in mapping,
    "pop": lambda mapping, key, value: mapping.pop(key),
    "pop default": lambda mapping, key, value: mapping.pop(key, value),
    "popitem": lambda mapping, key, value: mapping.popitem(),
    "setdefault": lambda mapping, key, value: (mapping.setdefault(key, value), mapping.setdefault(key)),
    "update mapping": lambda mapping, key, value: mapping.update({key: value, "b": 1}),
    "update pairs": lambda mapping, key, value: mapping.update([(key, value), (key, 2)], c=value),
    "update itself": lambda mapping, key, value: mapping.update(mapping),
    "update wrongly": lambda mapping, key, value: mapping.update([(key,)]),
    "|= mapping": lambda mapping, key, value: operator.ior(mapping, {"a": value, key: value}) is mapping,
    "|= pairs": lambda mapping, key, value: operator.ior(mapping, [(key, value)]) is mapping,
    "|": lambda mapping, key, value: list((mapping | {key: value}).items()),
    "| from the right": lambda mapping, key, value: list(({key: value} | mapping).items()),
    "| pairs": lambda mapping, key, value: mapping | [(key, value)],
    "copy": lambda mapping, key, value: list(mapping.copy().items()),
    "fromkeys": lambda mapping, key, value: mapping.fromkeys([key, "a"], value),
    "==": lambda mapping, key, value: (mapping == {key: value}, mapping != {key: value}, mapping == [], mapping == key),
    "clear": lambda mapping, key, value: mapping.clear(),
    "hash": lambda mapping, key, value: hash(mapping),
    "keys": lambda mapping, key, value: (key in (keys := mapping.keys()), keys & {key}, 1 in keys),
    "values": lambda mapping, key, value: value in mapping.values(),
    "items": lambda mapping, key, value: ((key, value) in mapping.items(), key in mapping.items()),
    "len": lambda mapping, key, value: (len(mapping.keys()), len(mapping.values()), len(mapping.items())),
}


def outcome(act: Act, mapping: Any, key: str, value: Any) -> object:
    try:
        return act(mapping, key, value)
    except (KeyError, TypeError, ValueError) as error:
        return next(kind for kind in (KeyError, TypeError, ValueError) if isinstance(error, kind))


class SideBySide(RuleBasedStateMachine):
    """The same calls on a user store and on a dict have the same outcomes and leave the same content."""

    def __init__(self) -> None:
        super().__init__()
        self.store = fresh_store()
        self.dict: dict[str, Any] = {}

    @rule(name=st.sampled_from(list(ACTS)), key=KEYS, value=VALUES)
    def act(self, name: str, key: str, value: Any) -> None:
        assert outcome(ACTS[name], self.store, key, value) == outcome(ACTS[name], self.dict, key, value)

    @rule(names=st.lists(st.sampled_from(list(ACTS)), min_size=1), key=KEYS, value=VALUES)
    def act_in_a_transaction(self, names: list[str], key: str, value: Any) -> None:
        with self.store.transaction():
            for name in names:
                self.act(name, key, value)

    @rule(names=st.lists(st.sampled_from(list(ACTS)), min_size=1), key=KEYS, value=VALUES)
    def act_in_a_transaction_that_fails(self, names: list[str], key: str, value: Any) -> None:
        before = dict(self.dict)
        with suppress(ZeroDivisionError), self.store.transaction():
            self.act_in_a_transaction(names, key, value)
            raise ZeroDivisionError
        self.dict = before

    @invariant()
    def content_is_alike(self) -> None:
        assert (self.store == self.dict, self.dict == self.store) == (True, True)
        assert (len(self.store), bool(self.store)) == (len(self.dict), bool(self.dict))
        assert (list(self.store), list(reversed(self.store))) == (list(self.dict), list(reversed(self.dict)))
        for view in ("keys", "values", "items"):
            of_store, of_dict = getattr(self.store, view)(), getattr(self.dict, view)()
            assert (list(of_store), list(reversed(of_store))) == (list(of_dict), list(reversed(of_dict)))


TestSideBySideWithDict = SideBySide.TestCase
TestSideBySideWithDict.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
