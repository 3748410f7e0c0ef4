"""No error shows a value, however it is logged, and an exception that a signal's handler raises comes out as it is.

Promises: docs/security.md, "Logs". A value that was refused or cannot be read is a customer's address all the same
(CWE-532, insertion of sensitive information into a log file).
"""

from __future__ import annotations

import enum
import json
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from flask import Flask

from flask_dash_store import (
    NotANumber,
    UnreadableValue,
    UnstorableValue,
    UserStore,
    UserStoreError,
    UserStoreMiddleware,
)

SECRET = "Ada, 12 St James's Square"


def open_store(url: str = "sqlite://:memory:", **options: Any) -> UserStore:
    app = Flask("errors")
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url=url, **options).for_user("ann")


class Unpicklable:
    """Says what it holds when it is pickled."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        raise self._error


class Shown:
    """Shows what it holds in its repr."""

    def __repr__(self) -> str:
        return SECRET

    __lt__ = None  # type: ignore[assignment]


def set_it(store: UserStore, value: Any) -> None:
    store["key"] = value


def increment_text(store: UserStore, value: Any) -> None:
    store["key"] = value
    store.increment("key")


def increment_by_text(store: UserStore, value: Any) -> None:
    store["key"] = 1
    store.increment("key", by=value)


Refusal = tuple[dict[str, Any], Callable[[UserStore, Any], None], Any]

REFUSALS: dict[str, Refusal] = {
    "an error of the value's own": ({}, set_it, Unpicklable(ValueError(SECRET))),
    "a pickling error": ({}, set_it, Unpicklable(pickle.PicklingError(f"Can't pickle {SECRET!r}"))),
    "a pickling error like Python's": ({}, set_it, Unpicklable(pickle.PicklingError(f"Can't pickle: {SECRET}"))),
    "a function": ({}, set_it, [SECRET, lambda: SECRET]),
    "a generator": ({}, set_it, (each for each in [SECRET])),
    "a JSON key that is a tuple": ({"codec": "json"}, set_it, {(SECRET, 1): 1}),
    "a JSON key that is an object": ({"codec": "json"}, set_it, {"a": [{Shown(): 1}]}),
    "an object in JSON": ({"codec": "json"}, set_it, {"a": Shown()}),
    "a surrogate in JSON": ({"codec": "json"}, set_it, f"{SECRET}\ud800"),
    "a number that JSON has not": ({"codec": "json"}, set_it, [SECRET, float("nan")]),
    "too large": ({"max_value_bytes": 10}, set_it, SECRET),
    "beyond the quota": ({"max_bytes": 10}, set_it, SECRET),
    "no number": ({}, increment_text, SECRET),
    "nothing to add": ({}, increment_by_text, SECRET),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_no_traceback_shows_a_value_that_was_refused(name: str) -> None:
    options, refused, value = REFUSALS[name]
    store = open_store(**options)
    with pytest.raises(UserStoreError) as raised:
        refused(store, value)
    assert SECRET not in logged(raised.value)
    assert isinstance(raised.value, NotANumber) or "key" in logged(raised.value)


def logged(error: BaseException) -> str:
    """What logging.exception writes, but for the lines of this file, which a log has no more than any other source."""
    lines = traceback.format_exception(error)
    return "".join(line for line in lines if __file__ not in line) + repr(error) + repr(error.args)


# What cannot be read


class Color(enum.Enum):
    RED = SECRET


class Revived:
    def __init__(self) -> None:
        self.address = SECRET

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise KeyError(state["address"])


def test_no_traceback_shows_a_value_that_cannot_be_read_and_the_error_says_where_it_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store()
    store.update(revived=Revived(), color=Color.RED)
    monkeypatch.setattr(sys.modules[__name__], "Color", enum.Enum("Color", {"GREEN": 1}))
    for key in store:
        with pytest.raises(UnreadableValue, match=f"'{key}'") as raised:
            store[key]
        assert SECRET not in logged(raised.value)
    with pytest.raises(UnreadableValue, match=rf"KeyError in Revived.__setstate__, {Path(__file__).name}, line \d+"):
        store["revived"]


STORE_A_CART = """
import sys
from flask import Flask
from flask_dash_store import UserStoreMiddleware
class Cart:
    pass
app = Flask("errors")
app.secret_key = "k" * 32
UserStoreMiddleware(app, url=sys.argv[1]).for_user("ann")["cart"] = Cart()
"""


def test_the_error_names_the_class_of_a_script_that_is_missing_in_another(tmp_path: Path) -> None:
    """As when a notebook, or `python app.py`, has stored what a worker of gunicorn reads."""
    url = f"sqlite:///{tmp_path}/store.sqlite"
    subprocess.run([sys.executable, "-c", STORE_A_CART, url], check=True, timeout=60)
    with pytest.raises(UnreadableValue, match=r"'cart'.*there is no \S*__main__\.Cart"):
        open_store(url)["cart"]


def test_the_error_names_a_module_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passing_module.py").write_text("class Cart: pass")
    monkeypatch.syspath_prepend(tmp_path)
    store = open_store()
    store["cart"] = __import__("passing_module").Cart()
    (tmp_path / "passing_module.py").unlink()
    monkeypatch.delitem(sys.modules, "passing_module")
    with pytest.raises(UnreadableValue, match=r"'cart'.*there is no module passing_module"):
        store["cart"]


# Alarms


class TimeIsUp(Exception):
    """What the handler of an alarm raises, as Celery's does."""


def time_is_up(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp


class Limit:
    def time_is_up(self, number: int, frame: FrameType | None) -> None:
        raise TimeIsUp


def ring() -> None:
    signal.raise_signal(signal.SIGALRM)


class RingsWhenRead:
    def __reduce__(self) -> Any:
        return ring, ()


class RingsWhenStored:
    def __reduce__(self) -> Any:
        ring()
        return int, ()


@contextmanager
def alarm(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("handler", [time_is_up, Limit().time_is_up], ids=["function", "method"])
def test_what_the_handler_of_a_signal_raises_while_a_value_is_read_or_stored_comes_out_as_it_is(
    handler: Callable[[int, FrameType | None], None],
) -> None:
    store = open_store()
    store.update(key="before", rings=RingsWhenRead())
    with alarm(handler):
        with pytest.raises(TimeIsUp):
            store["rings"]
        with pytest.raises(TimeIsUp):
            store["key"] = RingsWhenStored()
    assert store["key"] == "before"


def test_the_same_exception_that_the_value_itself_raises_is_an_error_of_the_value() -> None:
    store = open_store()
    with alarm(time_is_up), pytest.raises(UnstorableValue, match="TimeIsUp"):
        store["key"] = Unpicklable(TimeIsUp())


def test_json_errors_are_of_the_package_too() -> None:
    store = open_store(codec="json")
    with pytest.raises(UnstorableValue, match="a key in it is a tuple, not a str"):
        store["key"] = {("a", "b"): 1}
    with pytest.raises(UnstorableValue, match="Object of type set is not JSON serializable"):
        store["key"] = ["a secret", {"a", "b"}]
    assert json.loads(json.dumps(store.copy())) == {}
