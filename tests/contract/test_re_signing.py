"""After a change of SECRET_KEY, `flask user-store re-sign` lets the former one go, and loses no value of a user.

Promises: docs/security.md, "At rest".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from urls import rewrite
from visits import Browser, Site

from flask_dash_store import TamperedValue, UserStore
from flask_dash_store.codec import BUFFER_THRESHOLD

OLD, NEW = "old " * 8, "new " * 8
LARGE = {"text": "é" * BUFFER_THRESHOLD, "array": np.arange(BUFFER_THRESHOLD)}


def values() -> dict[str, Any]:
    return {"small": 1, **LARGE, "last": [2]}


def run(site: Site) -> Result:
    result = site.app.test_cli_runner().invoke(args=["user-store", "re-sign"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def assert_all_there(store: UserStore) -> None:
    found = store.copy()
    np.testing.assert_array_equal(found.pop("array"), LARGE["array"])
    assert (found, list(store)) == ({key: value for key, value in values().items() if key != "array"}, list(values()))


@pytest.fixture
def sites(clock: Any, tmp_path: Path, url: str) -> list[Site]:
    """The app before its key is changed, while the old one is a fallback, and when it is gone."""
    return [Site(clock, tmp_path, secrets, url=url) for secrets in ([OLD], [NEW, OLD], [NEW])]


def test_all_values_of_users_are_signed_with_the_current_key_as_they_were(sites: list[Site], clock: Any) -> None:
    old, during, after = sites
    for user in ("ann", "bob"):
        old.middleware.for_user(user, ttl=100).update(values())
    old.middleware.for_user("ann", ttl=100).expire("last", 60)
    with pytest.raises(TamperedValue):
        after.middleware.for_user("ann")["small"]
    clock.step(50)
    result = run(during)
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "Signed 8 values.")
    assert_all_there(after.middleware.for_user("ann", ttl=100))
    assert_all_there(after.middleware.for_user("bob", ttl=100))
    assert run(during).output.splitlines()[-1] == "There was nothing to sign."
    # No expiry has moved by it.
    clock.step(10)
    assert list(after.middleware.for_user("ann", ttl=100)) == ["small", *LARGE]
    clock.step(141)
    assert dict(after.middleware.for_user("bob", ttl=100)) == {}


def test_a_session_whose_visitor_has_been_back_goes_on_without_the_former_key(sites: list[Site]) -> None:
    old, during, after = sites
    browser, renewed, ended = Browser(old), Browser(old), Browser(old)
    for each in (browser, renewed, ended):
        each.visit(lambda store: store.update(values()))
    renewed.visit(UserStore.regenerate)
    ended.visit(UserStore.destroy)
    assert run(during).output.splitlines()[-1] == "Signed 8 values."
    for each in (browser, renewed):
        each.site = during
        each.visit(len)
        each.site = after
        each.visit(assert_all_there)
        assert each.status == 200


def test_what_neither_key_has_signed_is_left_out_by_name(sites: list[Site], url: str) -> None:
    old, during, _ = sites
    old.middleware.for_user("ann").update(a=1, b=2)
    rewrite(url, "a", lambda payload: payload[:-1] + bytes([payload[-1] ^ 1]))
    result = run(during)
    assert result.exit_code == 1
    assert result.output.splitlines()[-3:-1] == [
        "Signed 1 values.",
        "Left out 'a' of u.ann…: it is damaged, or SECRET_KEY_FALLBACKS lacks the key that signed it.",
    ]
