"""What a request costs: the statements that reach SQLite, and the signatures that are computed, are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from clocks import HandClock
from flask import Flask, g
from flask.testing import FlaskClient
from itsdangerous import Signer

from flask_dash_store import UserStoreMiddleware, cookie
from flask_dash_store.cookie import CookieAttributes, SessionCookie
from flask_dash_store.owner import new_session_id
from flask_dash_store.storage.sqlite import storage as sqlite

DAY = 24 * 60 * 60


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The verbs of the statements that were run, in their order."""
    run: list[str] = []
    connect = sqlite.connect

    def connect_and_listen(*args: Any) -> apsw.Connection:
        connection = connect(*args)

        def note(_: Any, sql: str, __: Any) -> bool:
            run.append(sql.split()[0])
            return True

        connection.exec_trace = note
        return connection

    monkeypatch.setattr(sqlite, "connect", connect_and_listen)
    return run


@pytest.fixture
def client(statements: list[str], tmp_path: Path, clock: HandClock) -> Iterator[FlaskClient]:
    app = Flask("costs")
    app.secret_key = "k" * 32
    UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite", clock=clock, ttl=DAY, cookie_eager=True)

    @app.get("/untouched")
    def untouched() -> str:
        return ""

    @app.get("/read")
    def read() -> str:
        return str(g.user_store.get("n"))

    @app.get("/write/<value>")
    def write(value: str) -> str:
        g.user_store["n"] = value
        return ""

    with app.test_client() as client:
        client.get("/write/first")
        statements.clear()
        yield client


def test_a_request_that_does_not_touch_its_store_makes_no_storage_call(
    client: FlaskClient, statements: list[str]
) -> None:
    client.get("/untouched")
    assert statements == []


def test_a_first_visit_makes_no_storage_call(client: FlaskClient, statements: list[str]) -> None:
    client.application.test_client().get("/untouched")
    assert statements == []


def test_a_read_is_one_select(client: FlaskClient, statements: list[str]) -> None:
    assert client.get("/read").text == "first"
    assert statements == ["SELECT"]


def test_an_overwrite_of_about_the_same_size_is_one_statement(client: FlaskClient, statements: list[str]) -> None:
    client.get("/write/second")
    assert statements == ["INSERT"]


def test_any_other_write_is_one_statement_too(client: FlaskClient, statements: list[str]) -> None:
    client.get("/write/" + "long" * 200)
    assert statements == ["INSERT"]


def test_reads_touch_at_most_once_per_twentieth_of_the_ttl(
    client: FlaskClient, statements: list[str], clock: HandClock
) -> None:
    for _ in range(200):
        clock.step(DAY / 200)
        client.get("/read")
    assert statements.count("SELECT") == 200
    assert 15 <= statements.count("UPDATE") <= 20


def test_a_signature_that_was_verified_is_not_computed_again(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/untouched")

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(Signer, "unsign", fail)
    assert "Set-Cookie" not in client.get("/untouched").headers


def test_what_was_verified_does_not_outlive_the_lifetime(client: FlaskClient, clock: HandClock) -> None:
    client.get("/untouched")
    clock.step(31 * DAY)
    assert "Set-Cookie" in client.get("/untouched").headers


def test_what_was_verified_does_not_outlive_a_key_rotation(client: FlaskClient, tmp_path: Path) -> None:
    client.get("/untouched")
    rotated = Flask("rotated")
    rotated.secret_key = "another " * 4
    UserStoreMiddleware(rotated, url=f"sqlite:///{tmp_path}/store.sqlite", cookie_eager=True)
    signed = client.get_cookie("user_store")
    assert signed is not None
    other = rotated.test_client()
    other.set_cookie("user_store", signed.value)
    assert "Set-Cookie" in other.get("/").headers


def test_the_cache_of_verified_cookies_is_bounded(monkeypatch: pytest.MonkeyPatch, clock: HandClock) -> None:
    verified: list[str] = []
    unsign = Signer.unsign

    def note(signer: Signer, value: str, **options: Any) -> Any:
        verified.append(value)
        return unsign(signer, value, **options)

    monkeypatch.setattr(Signer, "unsign", note)
    monkeypatch.setattr(cookie, "VERIFIED_COOKIES", 8)
    attributes = CookieAttributes("user_store", "/", None, "Lax", secure=None, partitioned=False)
    sessions = SessionCookie(attributes, [b"k" * 32], DAY, clock)
    first, *others = (sessions.dump(new_session_id(), clock.now, "http").partition(";")[0] for _ in range(9))
    for header in (first, *others, *others, first):
        assert sessions.read(header) is not None
    assert [f"user_store={value}" for value in verified] == [first, *others, first]
