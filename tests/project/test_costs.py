"""What a request costs: the statements that reach SQLite, and the signatures that are computed, are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from clocks import HandClock
from flask import Flask, current_app, g, request, session
from flask.testing import FlaskClient
from itsdangerous import Signer

from flask_dash_store import UserStoreMiddleware
from flask_dash_store.codec import BUFFER_THRESHOLD
from flask_dash_store.http import cookie
from flask_dash_store.http.cookie import CookieAttributes, SessionCookie
from flask_dash_store.owner import new_session_id

DAY = 24 * 60 * 60


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

    @app.get("/count")
    def count() -> str:
        return str(len(g.user_store))

    @app.get("/write/<value>")
    def write(value: str) -> str:
        g.user_store["n"] = value
        return ""

    @app.get("/add/<path:key>")
    def add(key: str) -> str:
        g.user_store[key.replace("/", "-")] = 1
        return ""

    @app.get("/large")
    def large() -> str:
        g.user_store["large"] = bytes(BUFFER_THRESHOLD)
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


@pytest.mark.parametrize("path", ["/write/second", "/write/" + "longer" * 200, "/add/other", "/add/large-key" * 9])
def test_a_write_is_one_statement_whatever_the_size_and_whether_the_key_is_new(
    client: FlaskClient, statements: list[str], path: str
) -> None:
    client.get(path)
    assert statements in (["INSERT"], ["UPDATE"])


def test_to_count_a_few_keys_is_one_select(client: FlaskClient, statements: list[str]) -> None:
    assert client.get("/count").text == "1"
    assert statements == ["SELECT"]


def test_a_large_value_is_one_transaction(client: FlaskClient, statements: list[str]) -> None:
    client.get("/large")
    assert statements.count("BEGIN") == statements.count("COMMIT") == 1
    assert statements[-1] == "COMMIT"


def another_request(path: str) -> str:
    """One that the browser has made, too, and that comes while this one is handled."""
    client = current_app.test_client()
    client.set_cookie("session", request.cookies["session"])
    return Context().run(client.get, path).text


@pytest.fixture
def session_client(statements: list[str], tmp_path: Path) -> Iterator[FlaskClient]:
    """Of an app that keeps ``flask.session`` in the store, whose visitor has a session."""
    app = Flask("session costs")
    app.secret_key = "k" * 32
    UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite", flask_session=True)
    app.add_url_rule("/untouched", "untouched", lambda: "")
    app.add_url_rule("/read", "read", lambda: str(session["n"]) + str(session.get("m")))
    app.add_url_rule("/write/<n>", "write", lambda n: str(session.update(n=n)))
    app.add_url_rule("/write-beside", "write-beside", lambda: str(session.update(n="2")) + another_request("/other"))
    app.add_url_rule("/other", "other", lambda: str(session.update(m="other")))
    app.add_url_rule("/in", "in", lambda: str(session.update(_user_id="ada")))
    app.add_url_rule(
        "/in-twice", "in-twice", lambda: str(g.user_store.regenerate("ada") or session.update(_user_id="ada"))
    )
    with app.test_client() as client:
        client.get("/write/1")
        statements.clear()
        yield client


@pytest.mark.parametrize(("path", "reads"), [("/untouched", 0), ("/read", 1), ("/write/1", 1)])
def test_a_request_reads_flasks_session_once_and_writes_nothing_without_a_change(
    session_client: FlaskClient, statements: list[str], path: str, reads: int
) -> None:
    assert "Set-Cookie" not in session_client.get(path).headers
    assert statements == ["SELECT"] * reads


def test_a_cookie_that_this_package_has_not_signed_costs_two_looks_whether_its_session_was_imported(
    session_client: FlaskClient, statements: list[str]
) -> None:
    other = session_client.application.test_client()
    other.set_cookie("session", "of another app")
    other.get("/untouched")
    assert statements == ["SELECT", "SELECT"]


def test_a_change_of_flasks_session_is_one_statement(session_client: FlaskClient, statements: list[str]) -> None:
    assert "Set-Cookie" not in session_client.get("/write/2").headers
    assert statements == ["SELECT", "UPDATE"]


def test_a_change_of_what_another_request_has_changed_is_one_transaction(
    session_client: FlaskClient, statements: list[str]
) -> None:
    session_client.get("/write-beside")
    first = statements.index("BEGIN")
    assert statements[:first] == ["SELECT", "SELECT", "UPDATE", "UPDATE"]
    assert session_client.get("/read").text == "2other"


def test_a_login_that_an_extension_has_told_the_store_already_writes_no_more(
    session_client: FlaskClient, statements: list[str]
) -> None:
    """On a new session, and on one that is there."""
    costs = []
    for path in ("/in", "/in-twice"):
        for cookie_of_before in (False, True):
            client = session_client.application.test_client()
            if cookie_of_before:
                client.get("/write/1")
            statements.clear()
            client.get(path)
            costs.append([verb for verb in statements if verb != "SELECT"])
    assert costs[:2] == costs[2:]


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

    def note(signer: Signer, value: str) -> Any:
        verified.append(value)
        return unsign(signer, value)

    monkeypatch.setattr(Signer, "unsign", note)
    monkeypatch.setattr(cookie, "VERIFIED_COOKIES", 8)
    attributes = CookieAttributes("user_store", "/", None, "Lax", secure=None, partitioned=False)
    sessions = SessionCookie(attributes, [b"k" * 32], DAY, clock)
    dumped = [sessions.dump(new_session_id(), clock(), "http") for _ in range(9)]
    first, *others = (value.partition(";")[0] for value in dumped)
    for header in (first, *others, *others, first):
        assert sessions.read(header) is not None
    assert [f"user_store={value}" for value in verified] == [first, *others, first]
