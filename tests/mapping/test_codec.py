"""Nothing is unpickled that this app did not write, for this owner and under this key; and json never meets pickle.

Promises: docs/security.md, "At rest". Unpickling what others can write runs their code (CWE-502).
"""

from __future__ import annotations

import operator
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import apsw
import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_dash_store import TamperedValue, UnreadableValue, UnstorableValue, UserStore, UserStoreMiddleware
from flask_dash_store.codec import JsonCodec, PickleCodec
from flask_dash_store.owner import new_session_id, session_owner
from flask_dash_store.signer import MAC_BYTES

SECRET, OLD_SECRET = b"s" * 32, b"o" * 32
CODECS = pytest.mark.parametrize("codec", [PickleCodec([SECRET]), JsonCodec([SECRET])], ids=["pickle", "json"])
READS: dict[str, Callable[[UserStore], object]] = {
    "[]": lambda store: store["k"],
    "get": lambda store: store.get("k"),
    "pop": lambda store: store.pop("k"),
    "popitem": lambda store: store.popitem(),
    "setdefault": lambda store: store.setdefault("k"),
    "copy": lambda store: store.copy(),
    "values": lambda store: list(store.values()),
    "items": lambda store: list(store.items()),
    "in items": lambda store: ("k", 1) in store.items(),
    "==": lambda store: store == {"k": 1},
    "increment": lambda store: store.increment("k"),
    "edit": lambda store: store.edit("k").__enter__(),
}


class Touch:
    """A pickle of it touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def open_store(codec: str = "pickle", secret: bytes = SECRET, url: str = "sqlite://:memory:") -> UserStore:
    app = Flask(__name__)
    app.secret_key = secret
    return UserStoreMiddleware(app, url=url, codec=codec).open(new_session_id())


@pytest.fixture
def plant(connections: list[apsw.Connection]) -> Callable[[str, Any], None]:
    """Changes what is stored under a key, as an attacker can who has the data but no secret."""

    def plant(key: str, payload: Any) -> None:
        connections[-1].execute('UPDATE "values" SET value = ? WHERE key LIKE ?', (payload, f"%/{key}"))

    return plant


@settings(deadline=None)
@given(value=st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists), key=st.text())
def test_a_value_comes_back_as_it_was(value, key) -> None:
    codec = PickleCodec([SECRET])
    payload, buffers = codec.encode("s.1", key, value)
    assert codec.decode("s.1", key, (payload, buffers)) == value
    assert pickle.loads(payload) == value, "pickle stops before the MAC, so that stock sqlitedict reads it too"


@CODECS
def test_a_payload_with_any_byte_changed_cut_or_added_is_tampered_with(codec) -> None:
    payload, _ = codec.encode("s.1", "k", "value")
    flipped = [payload[:n] + bytes([payload[n] ^ 1]) + payload[n + 1 :] for n in range(len(payload))]
    cut = [payload[:n] for n in range(len(payload))]
    for tampered in [*flipped, *cut, payload + b"\0", b"\0" + payload, payload[-MAC_BYTES:]]:
        with pytest.raises(TamperedValue, match="'k'"):
            codec.decode("s.1", "k", (tampered, None))


@CODECS
@pytest.mark.parametrize(("owner", "key"), [("s.2", "k"), ("s.1", "l"), ("s.1", ""), ("u.1", "k"), ("s.", "1/k")])
def test_a_payload_moved_to_another_owner_or_key_is_tampered_with(codec, owner, key) -> None:
    payload, _ = codec.encode("s.1", "k", "value")
    with pytest.raises(TamperedValue):
        codec.decode(owner, key, (payload, None))
    with pytest.raises(TamperedValue):
        codec.re_sign(owner, key, payload)


def test_the_border_between_key_and_value_cannot_be_moved() -> None:
    codec = JsonCodec([SECRET])
    payload, _ = codec.encode("s.1", "k", 11)
    with pytest.raises(TamperedValue):
        codec.decode("s.1", "k1", (payload[1:], None))


@pytest.mark.parametrize(("writer", "reader"), [(PickleCodec, JsonCodec), (JsonCodec, PickleCodec)])
def test_what_one_codec_wrote_the_other_refuses(writer, reader) -> None:
    with pytest.raises(TamperedValue, match="another codec"):
        reader([SECRET]).decode("s.1", "k", writer([SECRET]).encode("s.1", "k", 1))


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("mac", [b"", bytes(MAC_BYTES), None])
def test_a_planted_pickle_never_runs(plant, tmp_path, mac, read) -> None:
    store, touched = open_store(url=f"sqlite:///{tmp_path}/values.sqlite"), tmp_path / "touched"
    planted, _ = PickleCodec([OLD_SECRET]).encode(session_owner(store.session_id).name, "k", Touch(touched))
    if mac is not None:
        planted = pickle.dumps(Touch(touched)) + mac
    store["k"] = 1
    plant("k", planted)
    with pytest.raises(TamperedValue, match="'k'"):
        READS[read](store)
    assert not touched.exists()
    pickle.loads(planted)
    assert touched.exists(), "the planted pickle would have run"


@pytest.mark.parametrize("payload", [b"", b"\0", "text", 1, 1.5])
@pytest.mark.parametrize("codec", ["pickle", "json"])
def test_a_damaged_row_costs_its_own_key_alone(plant, tmp_path, codec, payload) -> None:
    store = open_store(codec, url=f"sqlite:///{tmp_path}/values.sqlite")
    store.update(k=1, other=2)
    plant("k", payload)
    with pytest.raises(TamperedValue):
        store["k"]
    store.regenerate()
    assert (store["other"], list(store), "k" in store) == (2, ["k", "other"], True)
    with pytest.raises(TamperedValue):
        store["k"]
    store["k"] = 3
    assert dict(store) == {"k": 3, "other": 2}


@CODECS
def test_the_first_secret_writes_and_each_of_them_reads(codec) -> None:
    kind = type(codec)
    old, both, new = kind([OLD_SECRET]), kind([SECRET, OLD_SECRET]), kind([SECRET])
    written_before, written_since = old.encode("s.1", "k", 1), both.encode("s.1", "k", 2)
    assert [both.decode("s.1", "k", stored) for stored in (written_before, written_since)] == [1, 2]
    assert new.decode("s.1", "k", written_since) == 2
    assert new.decode("s.1", "k", (both.re_sign("s.1", "k", written_before[0]), None)) == 1
    for reader, stored in [(old, written_since), (new, written_before)]:
        with pytest.raises(TamperedValue, match="SECRET_KEY_FALLBACKS"):
            reader.decode("s.1", "k", stored)


def test_secret_key_fallbacks_read_what_was_written_before(tmp_path) -> None:
    app = Flask(__name__)
    app.config.update(SECRET_KEY=OLD_SECRET, USER_STORE_URL=f"sqlite:///{tmp_path}/values.sqlite")
    UserStoreMiddleware(app).for_user("ann")["k"] = 1
    renewed = Flask(__name__)
    renewed.config.update(app.config, SECRET_KEY=SECRET, SECRET_KEY_FALLBACKS=[OLD_SECRET])
    assert UserStoreMiddleware(renewed).for_user("ann")["k"] == 1


def test_signing_again_never_looks_at_the_value(tmp_path) -> None:
    old, codec, touched = PickleCodec([OLD_SECRET]), PickleCodec([SECRET, OLD_SECRET]), tmp_path / "touched"
    payload, _ = old.encode("s.1", "k", Touch(touched))
    signed = codec.re_sign("s.1", "k", payload)
    assert not touched.exists()
    assert signed[:-MAC_BYTES] == payload[:-MAC_BYTES]
    PickleCodec([SECRET]).decode("s.1", "k", (signed, None))
    assert touched.exists()


@pytest.mark.parametrize("change", ["module", "class", "state"])
def test_a_value_whose_class_has_gone_is_unreadable_and_can_be_deleted(monkeypatch, change) -> None:
    module = ModuleType("passing")
    exec("class Passing:\n    def __init__(self):\n        self.state = 1", vars(module))
    monkeypatch.setitem(sys.modules, "passing", module)
    store = open_store()
    store.update(k=module.Passing(), other=1)
    assert store["k"].state == 1
    if change == "module":
        monkeypatch.delitem(sys.modules, "passing")
    elif change == "class":
        del module.Passing
    else:
        module.Passing.__setstate__ = lambda self, state: state["gone"]
    with pytest.raises(UnreadableValue, match=r"'k'.*Delete the key"):
        store["k"]
    del store["k"]
    assert dict(store) == {"other": 1}


# json


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("pickle was called")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


def test_json_never_calls_pickle(no_pickle) -> None:
    store = open_store("json")
    value = {"text": "é🦆", "list": [1, 2.5, True, None], "empty": {}}
    store.update(k=value, n=1, tuple=(1, 2))
    store.increment("n")
    with store.edit("k") as edited:
        edited["more"] = []
    store.regenerate()
    assert dict(store) == {"k": value | {"more": []}, "n": 2, "tuple": [1, 2]}
    assert (store.pop("n"), store.setdefault("n", 3), store.popitem()) == (2, 3, ("n", 3))


@pytest.mark.parametrize(
    "value", [{1}, b"", float("nan"), float("inf"), object(), 1j, "\ud800", Touch(Path()), {1: 2}, [{None: 1}]]
)
def test_json_refuses_what_it_cannot_say_and_leaves_what_was_stored(no_pickle, value) -> None:
    store = open_store("json")
    store["k"] = "old"
    with pytest.raises(UnstorableValue, match=r"'k'.*USER_STORE_CODEC"):
        operator.setitem(store, "k", value)
    assert store["k"] == "old"


def test_json_refuses_a_pickled_row_without_unpickling_it(plant, request, tmp_path) -> None:
    store, touched = open_store("json", url=f"sqlite:///{tmp_path}/values.sqlite"), tmp_path / "touched"
    store["k"] = 1
    pickled, _ = PickleCodec([SECRET]).encode(session_owner(store.session_id).name, "k", Touch(touched))
    plant("k", pickled)
    request.getfixturevalue("no_pickle")
    with pytest.raises(TamperedValue):
        store["k"]
    assert not touched.exists()
