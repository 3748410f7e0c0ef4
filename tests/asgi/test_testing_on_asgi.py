"""``flask_dash_store.testing`` with ASGI apps, and what the middleware's own methods do there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asgi_visitor
import httpx
import pytest
from asgi_visitor import SECRET, VIEWS
from dash import Dash, html
from quart import Quart
from starlette.applications import Starlette
from starlette.testclient import TestClient

from flask_dash_store import (
    ConfigurationError,
    OutsideRequest,
    UserStoreMiddleware,
    is_available,
    tab_store,
    user_store,
    visitor,
)
from flask_dash_store.testing import user_store_context, user_store_transaction

MAKERS = [each for each in asgi_visitor.MAKERS if each is not asgi_visitor.added]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param(VIEWS, url=f"sqlite:///{tmp_path}/store.sqlite")


# A client's store


@pytest.mark.parametrize("comes_first", [True, False])
def test_what_a_test_stores_the_clients_requests_read_and_the_other_way_round(app: Any, comes_first: bool) -> None:
    client, stranger = TestClient(app), TestClient(app)
    if not comes_first:
        client.get("/read")
    with user_store_transaction(client) as store:
        assert store.is_new == comes_first or not store
        store["name"] = "Bob"
    assert client.get("/read").text == "Bob"
    client.get("/write")
    with user_store_transaction(client) as store:
        assert dict(store) == {"name": "Ada"}
        store.regenerate(user_id="ada")
    assert client.get("/read").text == "Ada"
    with user_store_transaction(client) as store:
        store.destroy()
    assert (client.get("/read").text, stranger.get("/read").text) == ("None", "None")


def test_an_async_client_of_httpx_and_one_of_quart_have_a_store_too(tmp_path: Path) -> None:
    app = asgi_visitor.quart(VIEWS, url=f"sqlite:///{tmp_path}/store.sqlite")

    async def visit() -> None:
        client = app.test_client()
        with user_store_transaction(client) as store:
            store["name"] = "Bob"
        assert await (await client.get("/read")).get_data(as_text=True) == "Bob"
        await client.get("/write")
        with user_store_transaction(client) as store:
            assert dict(store) == {"name": "Ada"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as client:
            with user_store_transaction(client) as store:
                store["name"] = "Eve"
            assert (await client.get("/read")).text == "Eve"
            with user_store_transaction(client, base_url="https://other.example") as store:
                assert dict(store) == {}

    asyncio.run(visit())


def test_a_block_that_fails_gives_the_client_no_cookie(app: Any) -> None:
    client = TestClient(app)
    with pytest.raises(ZeroDivisionError), user_store_transaction(client):
        _ = 1 // 0
    assert not client.cookies


@pytest.mark.parametrize("app", [Starlette(), Quart("plain"), asgi_visitor.added({})])
def test_for_an_app_without_the_middleware_the_error_says_to_install_it(app: Any) -> None:
    for enter in (user_store_context(app), user_store_transaction(TestClient(app))):
        with pytest.raises(ConfigurationError, match=r"UserStoreMiddleware\(app\)"), enter:
            pass


# A callback called directly


def save(value: str) -> str:
    user_store["value"] = tab_store["value"] = value
    return f"{sorted(user_store)} {sorted(tab_store)}"


async def save_async(value: str) -> str:
    return save(value)


def test_a_callback_called_directly_has_the_stores_and_leaves_no_file(app: Any, tmp_path: Path) -> None:
    with user_store_context(app) as store:
        store["before"] = True
        assert save("one") == "['before', 'value'] ['value']"
    with user_store_context(app) as store:
        assert asyncio.run(save_async("two")) == "['value'] ['value']"
        assert (store["value"], is_available(), len(visitor())) == ("two", True, 22)
    assert not list(tmp_path.iterdir())
    assert not is_available()


@pytest.mark.parametrize("backend", ["fastapi", "quart"])
def test_in_the_block_the_stores_of_users_are_its_own_too(backend: str, tmp_path: Path) -> None:
    app = Dash("site", backend=backend)
    app.server.secret_key = SECRET
    app.layout = html.Div()
    stores = UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite")
    for _ in range(2):
        with user_store_context(app) as store:
            stores.for_user("ada").setdefault("theme", "dark")
            store.regenerate(user_id="ada")
            assert (len(stores.for_user("ada")), len(stores.sessions("ada"))) == (1, 1)
    assert not list(tmp_path.iterdir())


def test_the_settings_are_asked_of_the_request_that_is_described(tmp_path: Path) -> None:
    paths = []

    def counts_as_use(request: Any) -> bool:
        paths.append((request.method, request.full_path, request.headers["x-from"]))
        return True

    app = asgi_visitor.starlette(VIEWS, url=f"sqlite:///{tmp_path}/store.sqlite", counts_as_use=counts_as_use)
    with user_store_context(app, "/search?q=books", method="POST", headers={"X-From": "a test"}) as store:
        store["n"] = 1
    assert paths == [("POST", "/search?q=books", "a test")]


# What the middleware itself gives


def test_outside_of_requests_stores_sessions_and_users_are_reached_as_on_flask(tmp_path: Path, clock: Any) -> None:
    app = Starlette()
    options = {"secret_key": SECRET, "url": f"sqlite:///{tmp_path}/store.sqlite", "ttl": 100, "clock": clock}
    stores = UserStoreMiddleware(app, **options)  # type: ignore[arg-type]
    for path, view in VIEWS.items():
        app.add_route(path, asgi_visitor.starlette({path: view}).routes[0].endpoint)
    ada, other = TestClient(app), TestClient(app)
    for client in (ada, other):
        client.get("/write")
        client.get("/login")
    with user_store_transaction(ada) as store:
        session_id, handle, kept = str(store.session_id), store.job_handle(), store
    stores.open(handle)["name"] = "from a job"
    assert (stores.open(session_id)["name"], ada.get("/read").text) == ("from a job", "from a job")
    with pytest.raises(OutsideRequest):
        stores.open(handle).regenerate()
    stores.for_user("ada")["theme"] = "dark"
    assert (len(stores.sessions("ada")), stores.for_user("ada")["theme"]) == (2, "dark")
    assert stores.end_sessions("ada", but=kept) == 1
    assert (ada.get("/read").text, other.get("/read").text) == ("from a job", "None")
    clock.step(1000)
    assert stores.purge() >= 1
    assert (stores.sessions("ada"), ada.get("/read").text) == ([], "None")
    stores.close()
