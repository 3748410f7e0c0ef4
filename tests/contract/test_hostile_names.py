"""Whatever user ids and keys are called, no two of them meet (Django's CVE-2011-4136): stored, or a clear error.

Promises: docs/security.md, "Isolation".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from visits import SECRET, Browser, Site, read, write

from flask_dash_store import InvalidKey, UserStore, UserStoreMiddleware
from flask_dash_store.owner import session_owner

NAMES = [
    *("1", "12", "2", "01", "1.0", "-1", "\uff11", "a_b", "a", "b", "_", "a_", "_b", "A", "A_B", "a_B", "None"),
    *(
        ".",
        "..",
        "...",
        "/",
        "../",
        "a/b",
        "a%2Fb",
        "a%252Fb",
        "%",
        "%%",
        "%1",
        "%_",
        "*",
        "?",
        "[a]",
        "0",
        "a0",
        "a/0",
    ),
    *("\0", "a\0", "a\0b", "\0a", " ", "a ", " a", "\n", "\r\n", "\t", "\x7f", "\x80", "'", '"', "';--", "\\", "$", ""),
    *(
        "é",
        "e\u0301",
        "É",
        "ß",
        "ss",
        "\u0131",
        "i",
        "\u202e",
        "\ufeff",
        "\ufffe",
        "\uffff",
        "🦆",
        "\U0010ffff",
        "\ud800",
    ),
    *("s.", "u.", "u.1", "s.1", "x" * 511, "x" * 512, "x" * 513, "é" * 512, "🦆" * 512),
]
HUGE = ["x" * 2**20, "\0" * 2**20, "%" * 2**20, "../" * 2**18]


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    """A client of an app that stores values under whatever names it is sent, and tells what it has stored."""
    app = Flask("names")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=f"sqlite:///{tmp_path}/store.sqlite")
    stores = UserStoreMiddleware(app)

    def refusal(user: str, key: str) -> str | None:
        try:
            stores.for_user(user)[key] = [user, key]
        except InvalidKey as error:
            return str(error)
        return None

    @app.post("/write")
    def write() -> Any:
        sent = request.get_json()
        return {"refusals": [refusal(sent["user"], key) for key in sent["keys"]]}

    @app.post("/read")
    def read() -> Any:
        return list(stores.for_user(request.get_json()["user"]).items())

    return app.test_client()


def test_hostile_names_that_an_app_is_sent_are_stored_apart_or_refused_clearly(client: FlaskClient) -> None:
    stored: dict[str, list[str]] = {}
    for user in NAMES:
        refusals = client.post("/write", json={"user": user, "keys": NAMES}).json["refusals"]
        stored[user] = [key for key, refusal in zip(NAMES, refusals, strict=True) if refusal is None]
    refused_users = {user for user, keys in stored.items() if not keys}
    refused_keys = {key for key in NAMES if key not in stored["1"]}
    assert refused_users == {"x" * 513, "\ud800"}
    assert refused_keys == {key for key in NAMES if set(key) & set("\0/%\ud800") or not 1 <= len(key) <= 512}
    for user in stored.keys() - refused_users:
        values = client.post("/read", json={"user": user}).json
        assert values == [[key, [user, key]] for key in stored[user] if key not in refused_keys]
        assert len(values) == len(NAMES) - len(refused_keys)


@pytest.mark.parametrize("name", HUGE, ids=lambda name: ascii(name[0]))
def test_a_name_of_a_megabyte_is_refused_in_a_message_that_does_not_repeat_it(client: FlaskClient, name: str) -> None:
    for user, keys in ((name, ["key"]), ("user", [name])):
        [message] = client.post("/write", json={"user": user, "keys": keys}).json["refusals"]
        assert "512 characters" in message
        assert len(message) < 300
    assert client.post("/read", json={"user": "user"}).json == []


def test_no_user_id_reaches_a_session_whatever_it_is_called(clock: Any, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    browser = Browser(site)
    browser.visit(write)
    name = session_owner(browser.id).name
    for user_id in (browser.id, name, f"{name}/name", name.removeprefix("s."), f"../{name}", browser.cookie):
        store = site.middleware.for_user(user_id)
        assert read(store) is None
        store["name"] = "not Ada"
        store.clear()
    assert browser.visit(UserStore.copy) == {"name": "Ada"}
