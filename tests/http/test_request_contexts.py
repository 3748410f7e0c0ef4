"""A store wherever Flask has a request, and an error that says what to do where it has none."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask, Response, copy_current_request_context, g, stream_with_context
from flask.testing import FlaskClient

from flask_dash_store import (
    OutsideRequest,
    ResponseStarted,
    StorageClosed,
    UserStore,
    UserStoreMiddleware,
    is_available,
    user_store,
)
from flask_dash_store.store.internal import current_store

SECRET = "0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).parents[2]


def make_app(url: str = "memory://") -> Flask:
    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=url, TESTING=True)
    app.add_url_rule("/name", "name", lambda: str(g.user_store.get("name")))
    app.add_url_rule("/name/<name>", "save", lambda name: g.user_store.update(name=name) or "ok")
    return app


@pytest.fixture
def app() -> Flask:
    app = make_app()
    UserStoreMiddleware(app)
    return app


def cookie(client: FlaskClient) -> str:
    found = client.get_cookie("user_store")
    assert found is not None
    return f"user_store={found.value}"


ways = pytest.mark.parametrize("store", [lambda: g.user_store, lambda: user_store], ids=["g", "proxy"])
Store = Callable[[], UserStore]


@ways
def test_a_test_request_context_has_a_store_of_a_new_visitor(app: Flask, store: Store) -> None:
    for _ in range(2):
        with app.test_request_context():
            assert is_available()
            assert store().is_new
            assert dict(store()) == {}
            store()["name"] = "Ada"
            assert g.user_store["name"] == user_store["name"] == "Ada"


@ways
def test_a_test_request_context_with_a_visitors_cookie_has_that_visitors_store(app: Flask, store: Store) -> None:
    client = app.test_client()
    client.get("/name/Ada")
    with app.test_request_context(headers={"Cookie": cookie(client)}):
        assert store()["name"] == "Ada"
        store()["name"] = "Countess"
    assert client.get("/name").text == "Countess"


def test_a_request_of_a_client_inside_a_test_request_context_has_its_own_visitor(app: Flask) -> None:
    with app.test_request_context():
        g.user_store["name"] = "outside"
        client = app.test_client()
        client.get("/name/Ada")
        assert [client.get("/name").text, g.user_store["name"]] == ["Ada", "outside"]


def test_a_client_that_keeps_its_context_shows_the_store_of_its_last_request(app: Flask) -> None:
    with app.test_client() as client:
        client.get("/name/Ada")
        client.get("/name")
        assert g.user_store["name"] == user_store["name"] == "Ada"


@ways
def test_a_copied_context_has_the_visitors_store_in_another_thread(app: Flask, store: Store) -> None:
    seen = []

    @app.get("/later")
    def later() -> str:
        @copy_current_request_context
        def work() -> None:
            seen.append(store().get("name"))
            store()["name"] = "from the thread"

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return "ok"

    client = app.test_client()
    client.get("/name/Ada")
    client.get("/later")
    assert seen == ["Ada"]
    assert client.get("/name").text == "from the thread"


@ways
def test_a_stream_with_context_has_the_visitors_store_after_the_view(app: Flask, store: Store) -> None:
    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            yield "I am "
            yield store()["name"]

        return Response(stream_with_context(parts()))

    client = app.test_client()
    client.get("/name/Ada")
    assert client.get("/stream").text == "I am Ada"


@ways
@pytest.mark.parametrize("reads_before", [False, True])
def test_a_new_visitors_write_that_no_cookie_can_lead_to_is_an_error(
    app: Flask, store: Store, reads_before: bool
) -> None:
    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            yield "late: "
            try:
                store()["name"] = "Ada"
            except ResponseStarted as error:
                yield type(error).__name__

        if reads_before:
            assert "name" not in store()
        return Response(stream_with_context(parts()))

    client = app.test_client()
    assert client.get("/stream").text == ("late: " if reads_before else "late: ResponseStarted")
    assert client.get("/name").text == ("Ada" if reads_before else "None")


def test_under_pytest_flask_tests_and_their_client_have_each_their_visitor(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(f"""
import pytest
from flask import Flask, g
from flask_dash_store import UserStoreMiddleware, user_store
from flask_dash_store.testing import user_store_transaction

@pytest.fixture
def app():
    app = Flask("shop")
    app.config.update(SECRET_KEY="{SECRET}", USER_STORE_URL="memory://")
    UserStoreMiddleware(app)
    app.add_url_rule("/name", "name", lambda: str(g.user_store.get("name")))
    return app

@pytest.mark.parametrize("time", [1, 2])
def test_the_store_is_at_hand_in_a_test(app, time):
    assert dict(g.user_store) == {{}}
    user_store["name"] = "Ada"
    assert g.user_store["name"] == "Ada"

def test_the_client_has_its_own_and_a_test_sees_that_of_its_last_request_as_of_flasks_session(client):
    user_store["name"] = "Ada"
    assert client.get("/name").text == "None"
    with user_store_transaction(client) as store:
        store["name"] = "Bob"
    assert client.get("/name").text == "Bob"
    assert user_store["name"] == "Bob"
""")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:dash", "--rootdir", tmp_path, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "3 passed" in run.stdout, run.stdout + run.stderr


# Where there is no request


@ways
def test_outside_a_request_both_say_what_to_do(app: Flask, store: Store) -> None:
    what_to_do = r"is_available\(\)[\s\S]*user_store_context\(app\)[\s\S]*for_user"
    with app.app_context(), pytest.raises(OutsideRequest, match=what_to_do):
        _ = store()["name"]


def test_g_is_asked_whether_it_has_a_store_as_for_anything_else(app: Flask) -> None:
    with app.app_context():
        assert not hasattr(g, "user_store")
        assert "user_store" not in g
        assert g.get("user_store", "none") == "none"
        with pytest.raises(AttributeError):
            _ = g.other
    with app.test_request_context():
        assert hasattr(g, "user_store")
        assert "user_store" in g
        assert isinstance(g.get("user_store"), UserStore)
        assert not hasattr(g, "other")


def test_a_class_of_the_apps_own_for_g_stays() -> None:
    class Globals(Flask.app_ctx_globals_class):
        @property
        def answer(self) -> int:
            return 42

    app = make_app()
    app.app_ctx_globals_class = Globals
    UserStoreMiddleware(app)
    with app.test_request_context():
        assert g.answer == 42
        assert dict(g.user_store) == {}


# Apps that come and go


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_one_middleware_of_many_apps_keeps_none_alive_and_no_file_of_theirs_open(tmp_path: Path) -> None:
    middleware = UserStoreMiddleware()
    gc.collect()
    before = open_files()
    for n in range(60):
        app = make_app(f"sqlite:///{tmp_path}/{n % 3}.sqlite")
        middleware.init_app(app)
        assert app.test_client().get("/name/Ada").text == "ok"
        del app
        if n % 20 == 0:
            gc.collect()
    gc.collect()
    assert open_files() <= before


def test_a_middleware_that_is_closed_has_no_file_open_and_its_stores_say_so(tmp_path: Path) -> None:
    before = open_files()
    middleware = UserStoreMiddleware()
    apps = [make_app(f"sqlite:///{tmp_path}/{n}.sqlite") for n in range(3)]
    for app in apps:
        middleware.init_app(app)
    for app in apps[:2]:
        app.test_client().get("/name/Ada")
    middleware.close()
    middleware.close()
    assert open_files() <= before
    for app in apps:
        with pytest.raises(StorageClosed):
            app.test_client().get("/name")


def test_a_store_in_which_nothing_is_stored_is_available_without_a_request_too(app: Flask) -> None:
    middleware: UserStoreMiddleware = app.extensions["user_store"]
    with app.test_request_context():
        handle = user_store.job_handle()
    token = current_store.set(middleware.open(handle))
    try:
        assert len(user_store) == 0
        assert is_available()
    finally:
        current_store.reset(token)
    assert not is_available()
