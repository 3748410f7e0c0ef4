"""A browser that sends anything but an authentic cookie to a running app is a new visitor, answered as any other.

Promises: docs/security.md, "The cookie"; OWASP ASVS 5.0, 7.2.1 and 7.2.2. rack-session took forged cookies, by a
fallback for those that it could not decrypt (CVE-2026-39324).
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from itertools import chain
from pathlib import Path
from typing import Any

import apsw
import pytest
from hostile_cookies import mutations, random_mutations
from http_visitor import TIMEOUT, Visitor
from servers import Port, gunicorn, running
from visits import SECRET, Browser, Site, nothing, write

import flask_dash_store
from flask_dash_store import UserStore

APPS = Path(__file__).parents[1] / "support" / "apps"
COOKIES = 10_000
OVER_HTTP = 11  # every eleventh: with 28 at each character of the cookie, it is another of these each time

# What else a header holds, or a longer one, gunicorn refuses before an app sees it, as any server does (RFC 9110, 5.5).
FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8000}")


def mutated(crumb: str) -> list[str]:
    """10,000 headers that HTTP can carry, each different and none of them authentic."""
    headers: dict[str, None] = {}
    for header in chain(mutations(crumb), random_mutations(crumb, seed=1)):
        if FIELD_VALUE.fullmatch(header):
            headers[header] = None
        if len(headers) == COOKIES + 1:
            break
    return [header for header in headers if header.strip(" \t") != crumb][:COOKIES]


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    port = Port()
    settings = {"FLASK_SECRET_KEY": SECRET, "FLASK_USER_STORE_URL": f"sqlite:///{tmp_path}/store.sqlite"}
    with running(
        gunicorn("plain_app:server", port.number, APPS, "--keep-alive", "30"), port.number, tmp_path, settings
    ):
        yield port.number
    port.close()


def test_each_of_10000_mutated_cookies_is_a_new_visitor_and_none_costs_a_row(clock: Any, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    visitor = Browser(site)
    visitor.visit(write)
    headers = mutated(visitor.cookie)
    cookies = set()
    for header in headers:
        stranger = Browser(site, header)
        values = stranger.visit(UserStore.copy)
        assert (stranger.status, values, stranger.cookies_received) == (200, {}, 1), header[:300]
        cookies.add(stranger.cookie)
    assert len(cookies) == len(headers) >= COOKIES - 1
    assert visitor.visit(UserStore.copy) == {"name": "Ada"}
    assert site.database.execute('SELECT COUNT(*) FROM "sessions"').get == 1


def test_so_it_is_over_http_with_some_of_each_kind(port: int, tmp_path: Path) -> None:
    visitor = Visitor(port)
    visitor.do("PUT", "/name", "Ada")
    headers = mutated(f"user_store={visitor.cookie}")[::OVER_HTTP]
    cookies, sessions = set(), set()
    with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        for header in headers:
            connection.request("GET", "/", headers={"Cookie": header})
            response = connection.getresponse()
            body = json.loads(response.read())
            assert (response.status, body["values"]) == (200, {}), header[:300]
            sessions.add(body["session"])
            cookies.update(response.headers.get_all("Set-Cookie", []))
    assert len(cookies) == len(sessions) == len(headers)
    assert visitor.values() == {"name": "Ada"}
    assert apsw.Connection(f"{tmp_path}/store.sqlite").execute('SELECT COUNT(*) FROM "sessions"').get == 1


def test_every_session_id_that_is_given_out_comes_from_the_module_secrets(
    clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    token_urlsafe = secrets.token_urlsafe

    def draw(nbytes: int) -> str:
        assert nbytes == 48
        drawn.append(token_urlsafe(nbytes))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_urlsafe", draw)
    browser = Browser(Site(clock, tmp_path))
    ids = []
    for use in (nothing, write, UserStore.regenerate, UserStore.destroy, write):
        browser.visit(use)
        ids.append(browser.id)
    # The first 20 characters name whose values they are, which stays the same when the id changes.
    assert {each[20:] for each in ids} <= {each[20:] for each in drawn}
    assert len(set(ids)) == 3


def test_the_package_imports_no_other_source_of_randomness() -> None:
    for file in Path(flask_dash_store.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None)
            assert "random" not in (*names, module), file
