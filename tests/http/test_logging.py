"""Nothing that is logged, raised or shown by repr() tells a session id or a stored value.

Promises: docs/security.md, "Logs".
"""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from flask import Flask, g, stream_with_context

from flask_dash_store import UserStore, UserStoreError, UserStoreMiddleware, errors, user_store
from flask_dash_store.errors import ResponseStarted

SECRET = "0123456789abcdef0123456789abcdef"
VALUE = "hunter2-is-my-password"


class Gone:
    """A class whose values are stored, and which is then taken away."""

    def __init__(self, secret: str) -> None:
        self.secret = secret


class Site:
    """An app whose view does what the test hands it, for a visitor who has stored a secret."""

    def __init__(self, folder: Path, **options: Any) -> None:
        file = folder / "store.sqlite"
        self.app = Flask("site")
        self.app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=f"sqlite:///{file}", USER_STORE_TIMEOUT=0.01)
        self.middleware = UserStoreMiddleware(self.app, **options)
        self.middleware.opened()
        self.database = apsw.Connection(str(file))
        self.app.add_url_rule("/", "view", self._view)
        self.secrets = {VALUE, SECRET}
        self.client = self.app.test_client()
        assert self.visit(lambda site, store: store.update(secret=VALUE, list=[VALUE])) is None

    def _view(self) -> Any:
        self.secrets.add(g.user_store.session_id)
        try:
            return self.use(self, g.user_store) or "ok"
        except Exception as error:
            self.error = error
            raise
        finally:
            self.secrets.add(g.user_store.session_id)

    def visit(self, use: Use) -> Exception | None:
        """The error that ``use`` raises in the view; Flask logs it, and answers 500. What it returns is the answer."""
        self.use, self.error = use, None
        response = self.client.get("/", buffered=True)
        assert response.status_code == (getattr(self.error, "code", 500) if self.error else 200)
        self.secrets.add(self.client.get_cookie("user_store").value.rpartition(".")[2])
        return self.error

    def secrets_in(self, text: str) -> list[str]:
        return [secret for secret in self.secrets if secret in text]


Use = Callable[[Site, UserStore], Any]


def lock(site: Site, store: UserStore) -> None:
    with site.database:
        site.database.execute('UPDATE "sessions" SET value = value')
        store["secret"] = VALUE


def take_class_away(site: Site, store: UserStore) -> None:
    store["gone"] = Gone(VALUE)
    taken = globals().pop("Gone")
    try:
        store["gone"]
    finally:
        globals()["Gone"] = taken


def tamper(site: Site, store: UserStore) -> None:
    site.database.execute('UPDATE "values" SET value = ?', (pickle.dumps(VALUE),))
    store["secret"]


def damage(site: Site, store: UserStore) -> None:
    site.database.execute('DROP TABLE "values"')
    store["secret"]


def edit(site: Site, store: UserStore) -> None:
    with store.edit("list") as value:
        value.append(lambda: VALUE)


def write_after_destroy(site: Site, store: UserStore) -> None:
    site.middleware.open(store.session_id).destroy()
    store["secret"] = VALUE


def write(value: Any, key: Any = "secret") -> Use:
    return lambda site, store: store.update({key: value})


FAULTS: list[tuple[type[UserStoreError], Use]] = [
    (errors.UnstorableValue, write([VALUE, lambda: VALUE])),
    (errors.UnstorableValue, edit),
    (errors.ValueTooLarge, write(VALUE * 20_000)),
    (errors.QuotaExceeded, write(VALUE * 10_000)),
    (errors.TooManyKeys, lambda site, store: store.update({f"{n}": VALUE for n in range(11)})),
    (errors.UnreadableValue, take_class_away),
    (errors.TamperedValue, tamper),
    (errors.NotAnAttribute, lambda site, store: setattr(store, "modified", VALUE)),
    (errors.NotANumber, lambda site, store: store.increment("secret")),
    (errors.NotEditable, lambda site, store: store.edit("secret").__enter__()),
    (errors.NotAnAttribute, lambda site, store: setattr(store, "secret", VALUE)),
    (errors.InvalidKey, write(VALUE, "a/b")),
    (errors.InvalidKeyType, write(VALUE, 5)),
    (errors.InvalidKey, lambda site, store: site.middleware.open(store.session_id + VALUE)),
    (errors.InvalidTTL, lambda site, store: store.set("secret", VALUE, ttl=-1)),
    (errors.NotASession, lambda site, store: site.middleware.for_user("ada").destroy()),
    (errors.StorageBusy, lock),
    (errors.StorageError, damage),
]


@pytest.mark.parametrize(("fault", "use"), FAULTS)
def test_an_error_and_its_logged_traceback_tell_no_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: type[UserStoreError], use: Use
) -> None:
    caplog.set_level(logging.DEBUG)
    site = Site(tmp_path, max_bytes=100_000, max_value_bytes=400_000, max_keys=10)
    error = site.visit(use)
    assert type(error) is fault
    chain = "".join(traceback.format_exception(error))
    assert "Traceback" in caplog.text
    assert fault.__name__ in caplog.text
    assert site.secrets_in(caplog.text + chain + str(error) + repr(error) + repr(error.__cause__)) == []


def test_a_write_to_an_ended_session_is_an_answer_and_no_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    caplog.set_level(logging.DEBUG)
    error = site.visit(write_after_destroy)
    assert type(error) is errors.SessionEnded
    assert site.secrets_in("".join(traceback.format_exception(error)) + repr(error)) == []
    assert caplog.records == []


def test_no_error_that_a_request_can_meet_is_forgotten_above() -> None:
    all_errors = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, UserStoreError)}
    of_the_file_alone = {errors.StorageFull, errors.StorageCorrupt, errors.StorageClosed}
    of_the_file_alone |= {errors.UnknownFormat, errors.UnsuitableFilesystem}
    without_a_visitor = {errors.ConfigurationError, errors.OutsideRequest, errors.OutsideCookiePath, UserStoreError}
    without_a_visitor |= {errors.SessionRefused}
    assert all_errors - of_the_file_alone - without_a_visitor == {fault for fault, _ in FAULTS} | {
        ResponseStarted,
        errors.SessionEnded,
    }


def test_an_error_in_a_stream_tells_no_secret_either(tmp_path: Path) -> None:
    site = Site(tmp_path)

    @stream_with_context
    def stream(site: Site, store: UserStore) -> Iterator[str]:
        yield store["secret"]
        store.regenerate()

    with pytest.raises(ResponseStarted) as raised:
        site.visit(stream)
    assert site.secrets_in("".join(traceback.format_exception(raised.value))) == []


def test_with_json_an_unstorable_value_tells_no_secret_either(tmp_path: Path) -> None:
    site = Site(tmp_path, codec="json")
    for value in ({VALUE}, VALUE.encode(), {VALUE: {(1, 2): VALUE}}, [VALUE, float("nan")], VALUE + "\ud800"):
        error = site.visit(write(value))
        assert type(error) is errors.UnstorableValue
        assert site.secrets_in("".join(traceback.format_exception(error))) == []


def test_the_whole_life_of_a_session_is_logged_without_secrets(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site = Site(tmp_path, clock=clock, ttl=100, lifetime=1000)
    uses: list[Use] = [
        lambda site, store: store.copy() and None,
        lambda site, store: store.regenerate(),
        lambda site, store: store.destroy(),
        write(VALUE),
    ]
    for use in uses:
        assert site.visit(use) is None
    for _ in range(12):
        clock.step(99)
        assert site.visit(write(VALUE)) is None
    site.client.set_cookie("user_store", site.client.get_cookie("user_store").value[:-1] + "~")
    assert site.visit(write(VALUE)) is None
    site.database.execute('DROP TABLE "sessions"')
    clock.step(1001)
    site.client.get("/")
    assert "OperationalError" in caplog.text or "SQLError" in caplog.text
    assert len(site.secrets) > 2 + 2 * 4
    assert site.secrets_in(caplog.text) == []


SHOWN: dict[str, Use] = {
    "the store": lambda site, store: store,
    "the proxy": lambda site, store: user_store,
    "a store by session id": lambda site, store: site.middleware.open(store.session_id),
    "keys": lambda site, store: store.keys(),
    "values": lambda site, store: store.values(),
    "items": lambda site, store: store.items(),
    "the middleware": lambda site, store: site.middleware,
    "what a store is made of": lambda site, store: vars(store),
    "what the middleware is made of": lambda site, store: vars(site.app.wsgi_app),
}


@pytest.mark.parametrize("name", SHOWN)
def test_repr_and_str_show_no_secret(tmp_path: Path, name: str) -> None:
    site = Site(tmp_path)
    shown = []

    def show(site: Site, store: UserStore) -> None:
        thing = SHOWN[name](site, store)
        shown.extend([repr(thing), str(thing), f"{thing}"])

    assert site.visit(show) is None
    assert site.secrets_in("".join(shown)) == []
