"""What an editor and mypy know of the public names: each option, its type, and what it is for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import flask_dash_store
from flask_dash_store import Changed, DashDatabase, Key, UserStore, UserStoreMiddleware
from flask_dash_store.settings import UNSET, Settings

RIGHT = """
from datetime import timedelta
from flask import Flask, Request
from flask_dash_store import UserSession, UserStoreMiddleware

def is_use(request: Request) -> bool:
    return request.path != "/poll"

stores = UserStoreMiddleware(Flask("a"), ttl=timedelta(hours=1), codec="json", counts_as_use=is_use, cookie_eager=None)
found: list[UserSession] = stores.sessions("ada")
stores.for_user("ada").regenerate(user_id=5)
"""

WRONG = {
    "ttl": 'UserStoreMiddleware(ttl="soon")',
    "max_bytes": 'UserStoreMiddleware(max_bytes="1 GiB")',
    "codec": 'UserStoreMiddleware(codec="yaml")',
    "synchronous": 'UserStoreMiddleware(synchronous="OFF")',
    "tll": "UserStoreMiddleware(tll=5)",
    "cookie_secure": 'UserStoreMiddleware(cookie_secure="yes")',
    "end_sessions": 'UserStoreMiddleware().end_sessions("ada", but="everyone")',
}


RIGHT_WITH_DASH = """
from dash import Input, Output, callback
from flask_dash_store import Changed, Key, tab_store

cart: Key[list[str]] = Key("cart", default=list)
total = Key("total", default=float, ttl=60)
cart.set(cart.get() + ["apple"])
with cart.edit() as items:
    items.append("pear")
price: float = total.get()
inputs: list[Input] = [cart.changed, Changed("cart", "total"), Changed(["cart"]), Changed(any)]
tab_store.set("note", "hello", ttl=60)
"""

WRONG_WITH_DASH = {
    "str": "text: str = cart.get()",
    "list[int]": "cart.set([5])",
    "append": 'with cart.edit() as items: items.append(b"")',
    "float": 'total.set("much")',
    "Changed": "Changed(5)",
    "regenerate": "tab_store.regenerate()",
}


def mypy(tmp_path: Path, source: str) -> list[str]:
    file = tmp_path / "app.py"
    file.write_text(source)
    root = Path(flask_dash_store.__file__).parents[1]
    # As scripts/test.py calls it, which has filled this cache with Flask, Dash and the package.
    how = ("--platform", sys.platform, "--cache-dir", f".mypy_cache/{sys.platform}")
    command = [sys.executable, "-m", "mypy", *how, file]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return [line for line in result.stdout.splitlines() if line.startswith(str(file)) and ": error:" in line]


def test_mypy_catches_each_option_of_a_wrong_type_and_none_of_a_right_one(tmp_path: Path) -> None:
    lines = [*RIGHT.splitlines(), *WRONG.values()]
    found = mypy(tmp_path, "\n".join(lines))
    assert [int(error.split(":")[1]) for error in found] == list(range(len(lines) - len(WRONG) + 1, len(lines) + 1))
    assert all(name in error for name, error in zip(WRONG, found, strict=True))


def test_mypy_knows_what_a_declared_key_holds_and_the_names_that_need_dash(tmp_path: Path) -> None:
    lines = [*RIGHT_WITH_DASH.splitlines(), *WRONG_WITH_DASH.values()]
    found = mypy(tmp_path, "\n".join(lines))
    first = len(lines) - len(WRONG_WITH_DASH) + 1
    assert [int(error.split(":")[1]) for error in found] == list(range(first, len(lines) + 1)), found


def test_every_setting_is_an_option_that_leaves_it_to_the_config_unless_it_is_given() -> None:
    parameters = inspect.signature(UserStoreMiddleware).parameters
    options = {
        name: each.default
        for name, each in parameters.items()
        if name not in ("app", "clock", "secret_key", "secret_key_fallbacks")
    }
    assert options == {each.name: UNSET for each in fields(Settings)}
    assert repr(UNSET) == "UNSET"


CLASSES = (UserStoreMiddleware, UserStore, DashDatabase, Key, Changed)

PUBLIC = [
    call
    for kind in CLASSES
    for name, call in inspect.getmembers(kind, lambda each: inspect.isfunction(each) or inspect.ismethod(each))
    if not name.startswith("_") and call.__module__.startswith("flask_dash_store")
]


def assert_documented(parameters: Iterable[str], text: str | None) -> None:
    assert text, "it has no docstring"
    missing = [each for each in parameters if each != "self" and f":param {each}:" not in text]
    assert missing == []


@pytest.mark.parametrize("call", PUBLIC, ids=lambda call: call.__qualname__)
def test_the_docstring_of_every_public_method_names_every_parameter(call: Any) -> None:
    assert_documented(inspect.signature(call).parameters, inspect.getdoc(call))


@pytest.mark.parametrize("kind", [UserStoreMiddleware, DashDatabase])
def test_the_docstring_of_a_class_that_apps_make_names_every_option(kind: type) -> None:
    assert_documented(inspect.signature(kind).parameters, inspect.getdoc(kind))
