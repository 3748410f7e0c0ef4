"""No cache that people share is ever given one visitor's page, or cookie, for another.

Promises: docs/security.md, "Caches". Flask sent no ``Vary: Cookie`` with a session that was refreshed (CVE-2023-30861),
nor when a view did no more than ``key in session`` (CVE-2026-27205).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dash import Dash, html
from flask import Flask, Response, g
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_dash_store import UserStore, UserStoreMiddleware
from flask_dash_store.errors import SessionEnded

SECRET = "0123456789abcdef0123456789abcdef"
PAST, FUTURE = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"

Use = Callable[[UserStore], Any]


def nothing(store: UserStore) -> None:
    pass


def edit(store: UserStore) -> None:
    with store.edit("n") as value:
        value.append(1)


def get_missing(store: UserStore) -> None:
    with pytest.raises(KeyError):
        store["missing"]


def write_too_late(store: UserStore) -> None:
    with pytest.raises(SessionEnded):
        store["k"] = 1


def transaction(store: UserStore) -> None:
    with store.transaction():
        pass


ACCESSES: dict[str, Use] = {
    "__getitem__": lambda store: store["k"],
    "__getitem__ of what is missing": get_missing,
    "__contains__": lambda store: "k" in store,
    "__contains__ of what is missing": lambda store: "missing" in store,
    "__len__": len,
    "__iter__": list,
    "__reversed__": lambda store: list(reversed(store)),
    "__bool__": bool,
    "__eq__": lambda store: store == {},
    "__ne__": lambda store: store != {},
    "__or__": lambda store: store | {},
    "__ror__": lambda store: {} | store,
    "__ior__": lambda store: store.__ior__({"k": 2}),
    "__setitem__": lambda store: store.__setitem__("k", 2),
    "__delitem__": lambda store: store.__delitem__("k"),
    "get": lambda store: store.get("k"),
    "get of what is missing": lambda store: store.get("missing"),
    "keys": lambda store: list(store.keys()),
    "keys contain": lambda store: "k" in store.keys(),  # noqa: SIM118
    "keys as a set": lambda store: store.keys() & {"k"},
    "values": lambda store: list(store.values()),
    "values contain": lambda store: 1 in store.values(),
    "items": lambda store: list(store.items()),
    "items contain": lambda store: ("k", 1) in store.items(),
    "views have a length": lambda store: len(store.items()),
    "copy": lambda store: store.copy(),
    "set": lambda store: store.set("k", 1, ttl=5),
    "expire": lambda store: store.expire("k", 5),
    "pop": lambda store: store.pop("k"),
    "pop of what is missing": lambda store: store.pop("missing", None),
    "popitem": lambda store: store.popitem(),
    "setdefault": lambda store: store.setdefault("k", 1),
    "update": lambda store: store.update(k=2),
    "clear": lambda store: store.clear(),
    "increment": lambda store: store.increment("k"),
    "edit": edit,
    "transaction": transaction,
    "regenerate": lambda store: store.regenerate(),
    "destroy": lambda store: store.destroy(),
    "session_id": lambda store: store.session_id,
    "job_handle": lambda store: store.job_handle(),
    "describe": lambda store: store.describe(),
    "is_new": lambda store: store.is_new,
    "expires_at": lambda store: store.expires_at,
    "nbytes": lambda store: store.nbytes,
}


class Site:
    """An app whose view makes the use of the store, and gives the response, that the test asks for."""

    def __init__(self) -> None:
        self.use: Use = nothing
        self.headers: list[tuple[str, str]] = []
        self.app = Flask("site")
        self.app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="sqlite://:memory:", TESTING=True)
        UserStoreMiddleware(self.app, cookie_eager=True)
        self.app.add_url_rule("/", "view", self._view)

    def _view(self) -> Response:
        self.use(g.user_store)
        response = Response("ok")
        for name, value in self.headers:
            response.headers.add(name, value)
        return response

    def known_visitor(self) -> FlaskClient:
        client = self.app.test_client()
        self.use = lambda store: store.update(n=[], k=1)
        client.get("/")
        return client


def is_set(response: TestResponse) -> bool:
    return "Set-Cookie" in response.headers


def varies(response: TestResponse) -> list[str]:
    return [name.lower() for name in response.vary]


# Vary


@pytest.mark.parametrize("name", ACCESSES)
def test_every_kind_of_access_makes_the_response_vary_with_the_cookie(name: str) -> None:
    site = Site()
    client = site.known_visitor()
    site.use = ACCESSES[name]
    assert varies(client.get("/")) == ["cookie"]


def test_no_kind_of_access_is_forgotten_above() -> None:
    of_a_mapping = set(dir(dict)) - set(dir(object))
    accesses = {name for name in dir(UserStore) if name in of_a_mapping or not name.startswith("_")}
    assert accesses - {"fromkeys", "__class_getitem__"} <= set(ACCESSES)


def test_a_response_for_which_nothing_was_touched_does_not_vary() -> None:
    site = Site()
    client = site.known_visitor()
    site.use = nothing
    response = client.get("/")
    assert "Vary" not in response.headers
    assert "Cache-Control" not in response.headers


def test_the_response_that_sets_the_cookie_varies_though_nothing_was_touched() -> None:
    response = Site().app.test_client().get("/")
    assert (is_set(response), varies(response)) == (True, ["cookie"])


def test_the_response_to_a_session_that_has_ended_varies_too() -> None:
    site = Site()
    client = site.known_visitor()
    late = site.app.test_client()
    late.set_cookie("user_store", client.get_cookie("user_store").value)
    site.use = UserStore.destroy
    client.get("/")
    site.use = write_too_late
    assert varies(late.get("/")) == ["cookie"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["Accept-Encoding"], ["accept-encoding", "cookie"]),
        (["Accept-Encoding", "Origin"], ["accept-encoding", "origin", "cookie"]),
        (["cookie"], ["cookie"]),
        (["Origin, Cookie"], ["origin", "cookie"]),
        (["*"], ["*"]),
    ],
)
def test_what_the_response_varies_with_already_stays(before: list[str], after: list[str]) -> None:
    site = Site()
    site.headers = [("Vary", value) for value in before]
    assert varies(site.app.test_client().get("/")) == after


# Set-Cookie

PUBLIC = [
    {"Cache-Control": "public"},
    {"Cache-Control": "PUBLIC, Max-Age=60"},
    {"Cache-Control": "public, no-cache"},
    {"Cache-Control": "max-age=60"},
    {"Cache-Control": 'max-age="60"'},
    {"Cache-Control": "max-age=31536000, immutable"},
    {"Cache-Control": "s-maxage=60"},
    {"Cache-Control": "max-age=0, s-maxage=60"},
    {"Cache-Control": "must-revalidate", "Expires": FUTURE},
    {"cache-control": "max-age=60", "Expires": PAST},
    {"Expires": FUTURE},
    {"Cache-Control": "private", "CDN-Cache-Control": "max-age=60"},
    {"Cache-Control": 'public, private="X-Header"'},
    {"Cache-Control": "no-store", "Surrogate-Control": "max-age=60"},
    {"Cache-Control": "no-cache", "Cloudflare-CDN-Cache-Control": "public"},
]
NOT_PUBLIC = [
    {},
    {"Cache-Control": "no-cache"},
    {"Cache-Control": "no-cache, max-age=60"},
    {"Cache-Control": "max-age=0, must-revalidate"},
    {"Cache-Control": "max-age=0", "Expires": FUTURE},
    {"Cache-Control": "public-ish"},
    {"Expires": PAST},
    {"Expires": "0"},
    {"ETag": '"a"', "Last-Modified": PAST},
    {"CDN-Cache-Control": "no-store"},
]
SAYS_ALREADY = ["private", "private, max-age=60", "no-store", "no-store, max-age=60", "Private"]


@pytest.mark.parametrize("headers", PUBLIC, ids=str)
@pytest.mark.parametrize("use", [nothing, len, UserStore.regenerate])
def test_a_publicly_cacheable_response_never_sets_the_cookie(headers: dict[str, str], use: Use) -> None:
    site = Site()
    site.use, site.headers = use, list(headers.items())
    response = site.app.test_client().get("/")
    assert not is_set(response)
    assert {name: response.headers.get(name) for name in headers} == headers
    assert varies(response) == ([] if use is nothing else ["cookie"])


@pytest.mark.parametrize("headers", NOT_PUBLIC, ids=str)
def test_a_response_that_sets_the_cookie_is_private(headers: dict[str, str]) -> None:
    site = Site()
    site.headers = list(headers.items())
    response = site.app.test_client().get("/")
    assert is_set(response)
    assert response.cache_control.private is True
    given = headers.get("Cache-Control", "")
    assert response.headers.getlist("Cache-Control") == [f"{given}, private" if given else "private"]


@pytest.mark.parametrize("control", SAYS_ALREADY)
def test_a_response_that_says_who_may_keep_it_is_left_as_it_is(control: str) -> None:
    site = Site()
    site.headers = [("Cache-Control", control)]
    response = site.app.test_client().get("/")
    assert is_set(response)
    assert response.headers.getlist("Cache-Control") == [control]


def test_several_cache_control_headers_are_read_as_one() -> None:
    site = Site()
    site.headers = [("Cache-Control", "must-revalidate"), ("cache-control", "s-maxage=60")]
    assert not is_set(site.app.test_client().get("/"))


def test_a_visitor_without_a_cookie_after_a_public_response_is_given_one_with_the_next() -> None:
    site = Site()
    client = site.app.test_client()
    site.headers = [("Cache-Control", "public")]
    client.get("/")
    site.headers = []
    assert [is_set(client.get("/")) for _ in range(2)] == [True, False]


def test_a_write_whose_cookie_a_public_response_cannot_carry_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.headers = [("Cache-Control", "public")]
    site.app.test_client().get("/")
    assert caplog.messages == []
    site.use = lambda store: store.update(k=1)
    site.app.test_client().get("/")
    [message] = caplog.messages
    assert "Cache-Control" in message


# What Flask and Dash themselves send


def test_static_files_which_caches_must_ask_for_each_time_set_the_cookie_privately(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("a {}")
    app = Flask("site", static_folder=str(tmp_path), static_url_path="/static")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="sqlite://:memory:")
    UserStoreMiddleware(app, cookie_eager=True)
    client = app.test_client()
    first, again = client.get("/static/a.css"), client.get("/static/a.css")
    assert (is_set(first), first.headers["Cache-Control"]) == (True, "no-cache, private")
    assert (is_set(again), again.headers["Cache-Control"], "Vary" in again.headers) == (False, "no-cache", False)
    assert first.headers["ETag"] == again.headers["ETag"]
    unchanged = client.get("/static/a.css", headers={"If-None-Match": first.headers["ETag"]})
    assert (unchanged.status_code, is_set(unchanged)) == (304, False)
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 3600
    public = app.test_client().get("/static/a.css")
    assert (is_set(public), public.headers["Cache-Control"]) == (False, "public, max-age=3600")
    for response in (first, again, unchanged, public):
        response.close()


def test_dashs_component_suites_never_set_the_cookie() -> None:
    server = Flask("site")
    server.config.update(SECRET_KEY=SECRET, USER_STORE_URL="sqlite://:memory:")
    app = Dash("board", server=server)
    app.layout = html.Div()
    UserStoreMiddleware(app)
    page = server.test_client().get("/")
    assert is_set(page)
    suites = re.findall(r'src="(/_dash-component-suites/[^"]+)"', page.text)
    assert len(suites) > 3
    for suite in suites:
        response = server.test_client().get(suite)
        assert response.status_code == 200
        assert response.cache_control.max_age == 31536000
        assert not is_set(response)
        assert "Vary" not in response.headers
