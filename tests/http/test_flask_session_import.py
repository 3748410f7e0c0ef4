"""`flask user-store import` of what the real Flask-Session has stored: a switch logs no visitor out."""

from __future__ import annotations

import hashlib
import pickle
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask_session
import pytest
from cachelib import FileSystemCache
from click.testing import Result
from clocks import HandClock
from flask import Flask, g, session
from flask.testing import FlaskClient
from redis import Redis
from servers_redis import shared_server

from flask_dash_store import UserStoreMiddleware

SECRET = "0123456789abcdef0123456789abcdef"
VALUES = {"n": 1, "_user_id": "ada", "cart": {"apples": [1, 2]}, "none": None}
HOUR = 60 * 60
DAY = 24 * HOUR


class Before:
    """The app as it was: with Flask-Session."""

    def __init__(self, folder: Path, config: dict[str, Any], source: str) -> None:
        self.source = source
        self.config = {"SECRET_KEY": SECRET, "SESSION_KEY_PREFIX": f"old*[{folder.name}]:"} | config
        self.app = Flask("before")
        self.app.config.update(self.config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of SESSION_USE_SIGNER, which apps have set
            flask_session.Session(self.app)

    def browser(self, **values: Any) -> str:
        """The cookie of a browser with a session of these values."""
        client = self.app.test_client()
        with client.session_transaction() as its_session:
            its_session.update(values)
        cookie = client.get_cookie("session")
        assert cookie is not None
        return cookie.value

    def end(self, cookie: str) -> None:
        client = self.app.test_client()
        client.set_cookie("session", cookie)
        with client.session_transaction() as its_session:
            its_session.clear()


class After:
    """The app as it is: with this package."""

    def __init__(self, before: Before, url: str, clock: HandClock | None = None, **options: Any) -> None:
        self.before = before
        self.app = Flask("after")
        kept = {key: value for key, value in before.config.items() if key.startswith(("SECRET_", "SESSION_"))}
        self.app.config.update(kept, TESTING=True)
        options = {"url": url, "flask_session": True} | options | ({} if clock is None else {"clock": clock})
        self.stores = UserStoreMiddleware(self.app, **options)
        self.app.add_url_rule("/get", "get", lambda: dict(session))
        self.app.add_url_rule("/nothing", "nothing", lambda: "nothing")
        self.app.add_url_rule("/put/<n>", "put", lambda n: session.update(n=n) or "put")
        self.app.add_url_rule("/in/<user>", "in", lambda user: session.update(_user_id=user) or "in")
        self.app.add_url_rule("/out", "out", lambda: str(g.user_store.destroy()))

    def run(self, *options: str, source: str | None = None) -> Result:
        result = self.app.test_cli_runner().invoke(
            args=["user-store", "import", source or self.before.source, *options]
        )
        assert isinstance(result.exception, (SystemExit, type(None))), result.exception
        return result

    def browser(self, cookie: str) -> FlaskClient:
        client = self.app.test_client()
        client.set_cookie("session", cookie)
        return client


def id_of(client: FlaskClient) -> str:
    """The session id in a browser's cookie, which is one of this package."""
    cookie = client.get_cookie("session")
    assert cookie is not None
    assert cookie.value.count(".") == 3
    return cookie.value[:64]


def in_redis(folder: Path, **config: Any) -> Before:
    url = shared_server()
    return Before(folder, {"SESSION_TYPE": "redis", "SESSION_REDIS": Redis.from_url(url)} | config, url)


def in_files(folder: Path, hash_method: Callable[..., Any] = hashlib.sha256, **config: Any) -> Before:
    cache = FileSystemCache(str(folder / "sessions"), hash_method=hash_method)
    return Before(folder, {"SESSION_TYPE": "cachelib", "SESSION_CACHELIB": cache} | config, str(folder / "sessions"))


BEFORE: dict[str, Callable[[Path], Before]] = {
    "redis": in_redis,
    "redis, JSON": lambda folder: in_redis(folder, SESSION_SERIALIZATION_FORMAT="json"),
    "redis, signed": lambda folder: in_redis(folder, SESSION_USE_SIGNER=True),
    "files": in_files,
    "files of cachelib 0.15": lambda folder: in_files(folder, hashlib.md5),
}


@pytest.fixture
def before(tmp_path: Path) -> Before:
    return in_redis(tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> str:
    """A store in SQLite, where the storage does not matter."""
    return f"sqlite:///{tmp_path}/store.sqlite"


@pytest.mark.parametrize("made", BEFORE)
@pytest.mark.parametrize("codec", ["pickle", "json"])
def test_a_browser_with_flask_sessions_cookie_finds_its_values(
    tmp_path: Path, local: str, made: str, codec: str
) -> None:
    before = BEFORE[made](tmp_path)
    ada, bob = before.browser(**VALUES), before.browser(n=2)
    after = After(before, local, codec=codec)
    result = after.run(*["--allow-pickle"] * made.startswith("files"))
    assert (result.exit_code, result.output) == (0, "Imported 2 sessions; 0 were there already.\n")
    assert after.browser(ada).get("/get").json == VALUES | {"_permanent": True}
    assert after.browser(bob).get("/get").json == {"n": 2, "_permanent": True}


@pytest.mark.parametrize("first", ["/get", "/nothing", "/put/2"])
def test_the_first_request_brings_the_cookie_that_counts_from_then_on(before: Before, url: str, first: str) -> None:
    ada = before.browser(**VALUES)
    after = After(before, url)
    after.run()
    assert len(after.stores.sessions("ada")) == 1
    browser = after.browser(ada)
    assert "Max-Age=2678400" in browser.get(first).headers["Set-Cookie"]
    assert browser.get("/get").json == VALUES | {"_permanent": True} | ({"n": "2"} if first == "/put/2" else {})
    assert len(after.stores.sessions("ada")) == 1
    after.stores.close()


def test_requests_in_parallel_take_a_session_over_together(before: Before, url: str) -> None:
    ada = before.browser(**VALUES)
    after = After(before, url)
    after.run()
    browsers = [after.browser(ada) for _ in range(3)]
    for browser in browsers:
        browser.get("/get")
    assert len({id_of(browser) for browser in browsers}) == 1
    after.stores.close()


def test_a_cookie_of_no_session_that_was_imported_begins_none_that_another_knows(before: Before, url: str) -> None:
    after = After(before, url)
    after.run()
    for planted in ("planted", before.browser(n="after the import"), "p" * 3000):
        victim, thief = after.browser(planted), after.browser(planted)
        assert "Set-Cookie" not in victim.get("/nothing").headers
        victim.get("/put/victim")
        assert thief.get("/get").json == {}
        thief.get("/put/thief")
        assert id_of(victim) != id_of(thief)
        assert victim.get("/get").json == {"n": "victim"}
    after.stores.close()


@pytest.mark.parametrize("comes_after", [0, 10])
def test_the_cookie_opens_nothing_after_a_login_or_a_logout(before: Before, url: str, comes_after: float) -> None:
    clock = HandClock(time.time())
    planted, adas = before.browser(n=1), before.browser(**VALUES)
    after = After(before, url, clock)
    after.run()
    for cookie, path in ((planted, "/in/victim"), (adas, "/out")):
        browser, thief = after.browser(cookie), after.browser(cookie)
        browser.get("/get")
        browser.get(path)
        clock.step(comes_after)
        assert thief.get("/get").json == {}
    assert after.stores.sessions("ada") == []
    after.stores.close()


def test_a_request_in_flight_at_a_login_brings_no_cookie_that_replaces_it(before: Before, local: str) -> None:
    cookie = before.browser(n=1)
    after = After(before, local, cookie_eager=True)
    after.run()
    after.browser(cookie).get("/in/ada")
    late = after.browser(cookie)
    for path in ("/nothing", "/get", "/put/late"):
        assert "Set-Cookie" not in late.get(path).headers


def test_what_has_been_taken_over_is_not_imported_again(before: Before, url: str) -> None:
    adas, bobs = before.browser(**VALUES), before.browser(n=1)
    after = After(before, url)
    after.run()
    ada, bob = after.browser(adas), after.browser(bobs)
    ada.get("/put/new")
    bob.get("/out")
    result = after.run()
    assert (result.exit_code, result.output) == (0, "Imported 0 sessions; 2 were there already.\n")
    assert ada.get("/get").json["n"] == "new"
    assert after.browser(bobs).get("/get").json == {}
    after.stores.close()


def test_all_sessions_of_a_user_end_whether_they_were_taken_over_or_not(before: Before, local: str) -> None:
    cookie = before.browser(**VALUES)
    after = After(before, local)
    after.run()
    assert after.stores.end_sessions("ada") == 1
    assert after.browser(cookie).get("/get").json == {}


def test_what_flask_session_has_ended_is_not_imported(before: Before, local: str) -> None:
    cookie = before.browser(**VALUES)
    before.end(cookie)
    after = After(before, local)
    assert after.run().output == "Imported 0 sessions; 0 were there already.\n"
    assert after.browser(cookie).get("/get").json == {}


@pytest.mark.parametrize("made", ["redis", "files"])
def test_a_session_that_no_request_takes_over_expires_when_flask_sessions_would(
    tmp_path: Path, local: str, made: str
) -> None:
    clock = HandClock(time.time())
    before = BEFORE[made](tmp_path)
    before.app.config["PERMANENT_SESSION_LIFETIME"] = HOUR
    cookie, other = before.browser(**VALUES), before.browser(n=1)
    after = After(before, local, clock)
    after.run("--allow-pickle")
    clock.step(HOUR - 60)
    used = after.browser(other)
    assert used.get("/get").json == {"n": 1, "_permanent": True}
    clock.step(120)
    assert after.browser(cookie).get("/get").json == {}
    assert used.get("/get").json == {"n": 1, "_permanent": True}


def test_the_lifetime_counts_from_the_import(before: Before, local: str) -> None:
    clock = HandClock(time.time())
    cookie = before.browser(**VALUES)
    after = After(before, local, clock, lifetime=40 * DAY)
    after.run()
    clock.step(25 * DAY)
    browser = after.browser(cookie)
    assert browser.get("/get").json["n"] == 1
    clock.step(16 * DAY)
    assert browser.get("/get").json == {}
    assert after.browser(cookie).get("/get").json == {}


def test_where_cookies_were_signed_an_unsigned_one_is_worth_nothing(tmp_path: Path, local: str) -> None:
    before = BEFORE["redis, signed"](tmp_path)
    cookie = before.browser(n=1)
    after = After(before, local)
    after.run()
    for planted in (cookie.partition(".")[0], cookie[:-1] + ("A" if cookie[-1] != "A" else "B")):
        assert after.browser(planted).get("/get").json == {}


def test_another_secret_key_takes_nothing_over(before: Before, local: str) -> None:
    cookie = before.browser(n=1)
    After(before, local).run()
    before.config["SECRET_KEY"] = SECRET[::-1]
    assert After(before, local).browser(cookie).get("/get").json == {}


@pytest.mark.parametrize("made", ["redis", "redis, signed"])
def test_after_another_secret_key_a_fallback_takes_sessions_over_and_none_twice(
    tmp_path: Path, local: str, made: str
) -> None:
    before = BEFORE[made](tmp_path)
    adas, bobs = before.browser(**VALUES), before.browser(n=2)
    after = After(before, local)
    after.run()
    after.browser(bobs).get("/out")
    after.stores.close()
    before.config.update(SECRET_KEY=SECRET[::-1], SECRET_KEY_FALLBACKS=[SECRET])
    after = After(before, local)
    assert after.run().output == "Imported 0 sessions; 2 were there already.\n"
    assert after.browser(adas).get("/get").json == VALUES | {"_permanent": True}
    assert after.browser(bobs).get("/get").json == {}


# What is not read


class Evil:
    """Its pickle makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


def test_no_pickle_is_read_from_redis_unless_it_is_allowed_and_what_is_left_out_is_counted(
    before: Before, local: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    prefix, server = before.config["SESSION_KEY_PREFIX"], before.config["SESSION_REDIS"]
    cookie = before.browser(n=1)
    for name, payload in {"old": pickle.dumps({"n": 2}), "evil": pickle.dumps(Evil(run))}.items():
        server.set(prefix + name, payload)
    for name, payload in {"text": b"text", "json": b"{", "list": b"\x91\x01", "number": b"\x81\x01\x02"}.items():
        server.set(prefix + name, payload)
    server.rpush(prefix + "queue", "no session")
    after = After(before, local)
    result = after.run()
    assert result.exit_code == 1
    assert result.output.splitlines()[0] == "Imported 1 sessions; 0 were there already."
    assert "Left out 2: a pickle, which runs code when it is read: see --allow-pickle" in result.output.splitlines()
    assert result.output.splitlines()[-1].startswith("Error: 7 sessions were left out")
    assert cookie not in result.output
    assert not run.exists()
    assert after.browser("old").get("/get").json == {}
    result = after.run("--allow-pickle")
    assert result.output.splitlines()[0] == "Imported 1 sessions; 1 were there already."
    assert after.browser("old").get("/get").json == {"n": 2}


def test_files_are_refused_with_why_unless_pickles_are_allowed(tmp_path: Path, local: str) -> None:
    before = in_files(tmp_path)
    cookie = before.browser(n=1)
    (tmp_path / "sessions" / ("0" * 64)).write_bytes(b"\0\0\0\0\x80\x05gone")
    (tmp_path / "sessions" / ("1" * 64)).write_bytes(b"\0")
    (tmp_path / "sessions" / "notes.txt").write_text("not one of its files")
    after = After(before, local)
    result = after.run()
    assert result.exit_code == 1
    assert "pickles" in result.output
    assert "--allow-pickle" in result.output
    assert after.browser(cookie).get("/get").json == {}
    result = after.run("--allow-pickle")
    assert result.exit_code == 1
    assert result.output.splitlines()[0] == "Imported 1 sessions; 0 were there already."
    assert result.output.splitlines()[-1].startswith("Error: 2 sessions were left out")
    assert after.browser(cookie).get("/get").json["n"] == 1


def test_a_session_beyond_the_limits_is_counted_with_the_setting(before: Before, local: str) -> None:
    before.browser(text="x" * 5000)
    cookie = before.browser(n=1)
    after = After(before, local, max_value_bytes=2000)
    result = after.run()
    assert result.exit_code == 1
    assert "USER_STORE_MAX_VALUE_BYTES" in result.output
    assert after.browser(cookie).get("/get").json["n"] == 1


def test_what_cannot_be_imported_from_is_an_error_that_says_why(before: Before, local: str, tmp_path: Path) -> None:
    after = After(before, local)
    for source, why in {
        "redis://127.0.0.1:1": "Flask-Session's Redis server cannot be read",
        "http://user:hush@127.0.0.1": "redis://host:6379/0",
        str(tmp_path / "nothing"): "nothing",
    }.items():
        result = after.run(source=source)
        assert result.exit_code != 0
        assert why in result.output
        assert "hush" not in result.output
    result = After(before, local, flask_session=False).run()
    assert result.exit_code == 1
    assert "USER_STORE_FLASK_SESSION" in result.output


def test_while_the_storage_fails_a_request_with_such_a_cookie_is_answered_and_keeps_it(
    before: Before, local: str
) -> None:
    cookie = before.browser(n=1)
    after = After(before, local, cookie_eager=True)
    after.run()
    browser = after.browser(cookie)
    after.stores.close()
    response = browser.get("/nothing")
    assert (response.status_code, response.headers.get("Set-Cookie")) == (200, None)
