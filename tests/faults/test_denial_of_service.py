"""What a visitor can cost is bounded: nothing without a write, limits for what is written, nothing to the others.

Promises: docs/security.md, "Denial of service". Django's sessions broke the first of them twice: requests with unique
keys, and each anonymous logout, left an empty row (CVE-2015-5143, CVE-2015-5963).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from flask import Flask
from visits import SECRET, Browser, Site, read, write
from werkzeug.test import create_environ

from flask_dash_store import (
    InvalidKey,
    QuotaExceeded,
    TooManyKeys,
    UserStore,
    UserStoreError,
    UserStoreMiddleware,
    ValueTooLarge,
)
from flask_dash_store.http.wsgi import ENVIRON_KEY
from flask_dash_store.storage.sqlite import storage as sqlite
from flask_dash_store.storage.sqlite.connection import Connection

GETS = 100_000
CALLS = 2000


def sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_100000_gets_without_a_cookie_leave_every_file_as_large_as_it_was(tmp_path: Path) -> None:
    app = Flask("site")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=f"sqlite:///{tmp_path}/store.sqlite")

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert environ[ENVIRON_KEY].get("name") is None
        start_response("200 OK", [])
        return [b""]

    # Flask is not what is tried here, and would take most of the time.
    app.wsgi_app = wsgi_app  # type: ignore[method-assign]
    UserStoreMiddleware(app, cookie_eager=True).for_user("ann").get("key")  # Now the files are there.
    environ = create_environ()
    cookies = set()

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        cookies.add(dict(headers)["Set-Cookie"])

    before = sizes(tmp_path)
    for _ in range(GETS):
        app(dict(environ), start_response)
    assert sizes(tmp_path) == before
    assert len(cookies) == GETS


@pytest.mark.parametrize("use", [UserStore.destroy, UserStore.regenerate], ids=["destroy", "regenerate"])
def test_2000_calls_without_a_cookie_that_end_or_renew_a_session_leave_no_row(
    url: str, use: Callable[[UserStore], None]
) -> None:
    app = Flask("site")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=url)

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        use(environ[ENVIRON_KEY])
        start_response("200 OK", [])
        return [b""]

    app.wsgi_app = wsgi_app  # type: ignore[method-assign]  # Flask is not what is tried here.
    middleware = UserStoreMiddleware(app)
    environ, cookies = create_environ(), set()
    for _ in range(CALLS):
        app(dict(environ), lambda status, headers: cookies.add(dict(headers)["Set-Cookie"]))
    assert len(cookies) == CALLS
    assert list(middleware.opened().storage.all_owners()) == []


def test_a_thousand_crawls_of_a_flask_view_that_reads_clears_and_pops_leave_no_row(clock: Any, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    site.middleware.for_user("ann").get("key")  # Now the files are there.
    before = sizes(tmp_path)
    for _ in range(1000):
        Browser(site).visit(lambda store: (read(store), store.pop("name", None), store.clear(), len(store)))
    assert sizes(tmp_path) == before
    assert site.stored_expiries() == []


def test_thousands_of_cookies_of_flasks_name_cost_no_more_than_a_few(tmp_path: Path, statements: list[str]) -> None:
    app = Flask("site")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=f"sqlite:///{tmp_path}/store.sqlite")
    app.add_url_rule("/", "hello", lambda: "hello")
    UserStoreMiddleware(app, flask_session=True)
    client = app.test_client(use_cookies=False)
    client.get("/", headers={"Cookie": "session=1"})
    statements.clear()
    client.get("/", headers={"Cookie": "; ".join(f"session={number}" for number in range(5000))})
    assert len(statements) <= 16


# Limits

Write = Callable[[UserStore, str, Any], object]


def edit(store: UserStore, key: str, value: Any) -> None:
    with store.edit(key, []) as edited:
        edited.append(value)


def in_a_transaction(store: UserStore, key: str, value: Any) -> None:
    with store.transaction():
        store["small"] = "changed"
        store["key-1"] = "changed"
        store[key] = value


WRITES: dict[str, Write] = {
    "[] =": operator.setitem,
    "set": lambda store, key, value: store.set(key, value, ttl=60),
    "setdefault": lambda store, key, value: store.setdefault(key, value),
    "update": lambda store, key, value: store.update({"small": "changed", key: value}),
    "|=": lambda store, key, value: operator.ior(store, {"small": "changed", key: value}),
    "edit": edit,
    "transaction": in_a_transaction,
}

EXCESSES: dict[str, tuple[dict[str, int], type[UserStoreError], str, Any]] = {
    "quota": ({"max_bytes": 150_000}, QuotaExceeded, "new", bytes(50_000)),
    "quota, large value": ({"max_bytes": 500_000}, QuotaExceeded, "new", bytes(400_000)),
    "value size": ({"max_value_bytes": 100_000}, ValueTooLarge, "new", bytes(100_001)),
    "value size, large value": ({"max_value_bytes": 300_000}, ValueTooLarge, "new", bytes(400_000)),
    "key count": ({"max_keys": 7}, TooManyKeys, "new", 1),
    "key length": ({"max_key_length": 20}, InvalidKey, "x" * 21, 1),
}


def fill(store: UserStore) -> None:
    store.update({f"key-{number}": bytes(24_000) for number in range(6)} | {"small": "as it was"})


def stored(site: Site, folder: Path) -> Any:
    rows = site.database.execute('SELECT rowid, * FROM "values"').fetchall()
    return rows, site.database.execute('SELECT * FROM "sessions"').fetchall(), list(folder.glob("*.buffers/*"))


@pytest.mark.parametrize("excess", EXCESSES)
@pytest.mark.parametrize("name", WRITES)
def test_beyond_a_limit_a_write_raises_an_error_of_its_own_and_leaves_everything_as_it_was(
    clock: Any, tmp_path: Path, name: str, excess: str
) -> None:
    limits, error, key, value = EXCESSES[excess]
    [(option, limit)] = limits.items()
    site = Site(clock, tmp_path, **limits)
    browser, other = Browser(site), Browser(site)
    browser.visit(fill)

    def exceed(store: UserStore) -> None:
        with pytest.raises(error, match=rf"\b{limit:,}\b.*USER_STORE_{option.upper()}") as raised:
            WRITES[name](store, key, value)
        assert type(raised.value) is error

    before = stored(site, tmp_path)
    browser.visit(exceed)
    assert stored(site, tmp_path) == before
    other.visit(fill)
    browser.visit(lambda store: store.update(small="goes on"))
    assert browser.visit(lambda store: store["small"]) == "goes on"


# Cost


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps SQLite's virtual machine has taken for each statement."""
    taken: list[int] = []
    connect = sqlite.connect

    def connect_and_count(*args: Any) -> Connection:
        connection = connect(*args)
        connection.sqlite.trace_v2(
            apsw.SQLITE_TRACE_PROFILE, lambda event: taken.append(event["stmt_status"][VM_STEPS])
        )
        return connection

    monkeypatch.setattr(sqlite, "connect", connect_and_count)
    return taken


VM_STEPS = "SQLITE_STMTSTATUS_VM_STEP"

USES: dict[str, Callable[[UserStore], object]] = {
    "read": read,
    "write": write,
    "add": lambda store: store.update(new=1),
    "len": len,
    "copy": UserStore.copy,
    "delete": lambda store: store.pop("name"),
    "regenerate": UserStore.regenerate,
    "destroy": UserStore.destroy,
}


def test_what_a_request_costs_does_not_grow_with_the_number_of_sessions(
    clock: Any, tmp_path: Path, steps: list[int]
) -> None:
    site = Site(clock, tmp_path)
    costs = []
    for others in (1, 5000):
        with site.middleware.for_user("bulk").transaction():
            for number in range(others):
                site.middleware.for_user(f"other-{number}")["name"] = number
        cost = {}
        for name, use in USES.items():
            browser = Browser(site)
            browser.visit(write)
            steps.clear()
            browser.visit(use)
            cost[name] = sum(steps)
        costs.append(cost)
    assert costs[0] == costs[1]
    assert min(costs[0].values()) > 0
