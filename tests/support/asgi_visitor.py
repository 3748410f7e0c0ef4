"""Apps of each ASGI framework with the same views, and a visitor who calls them in process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from dash import Dash, html
from fastapi import FastAPI
from quart import Quart
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flask_dash_store import UserStoreMiddleware, user_store

SECRET = "0123456789abcdef0123456789abcdef"

View = Callable[[], Any]


def read() -> str:
    return str(user_store.get("name"))


def write() -> str:
    user_store["name"] = "Ada"
    return "written"


def nothing() -> str:
    return "ok"


def log_in() -> str:
    user_store.regenerate(user_id="ada")
    return "in"


def log_out() -> str:
    user_store.destroy()
    return "out"


VIEWS: dict[str, View] = {
    "/read": read,
    "/write": write,
    "/nothing": nothing,
    "/login": log_in,
    "/logout": log_out,
}


def starlette(views: dict[str, View], **options: Any) -> Any:
    app = Starlette(routes=[Route(path, _starlette_view(view)) for path, view in views.items()])
    UserStoreMiddleware(app, secret_key=SECRET, **options)
    return app


def _starlette_view(view: View) -> Any:
    async def answer(request: Any) -> PlainTextResponse:
        return PlainTextResponse(view())

    return answer


def added(views: dict[str, View], **options: Any) -> Any:
    """Starlette's own way."""
    app = Starlette(routes=[Route(path, _starlette_view(view)) for path, view in views.items()])
    app.add_middleware(UserStoreMiddleware, secret_key=SECRET, **options)
    return app


def fastapi(views: dict[str, View], **options: Any) -> Any:
    app = FastAPI()
    _add_to_fastapi(app, views)
    UserStoreMiddleware(app, secret_key=SECRET, **options)
    return app


def _add_to_fastapi(app: Any, views: dict[str, View]) -> None:
    for path, view in views.items():  # FastAPI runs these in threads.
        app.add_api_route(path, view, response_class=PlainTextResponse)


def quart(views: dict[str, View], **options: Any) -> Any:
    app = Quart("site")
    app.secret_key = SECRET
    _add_to_quart(app, views)
    UserStoreMiddleware(app, **options)
    return app


def _add_to_quart(app: Any, views: dict[str, View]) -> None:
    for path, view in views.items():
        app.add_url_rule(path, path, view)  # Quart runs these in threads.


def dash_on_fastapi(views: dict[str, View], **options: Any) -> Any:
    return _dash("fastapi", _add_to_fastapi, views, options)


def dash_on_quart(views: dict[str, View], **options: Any) -> Any:
    return _dash("quart", _add_to_quart, views, options)


def _dash(backend: str, add: Callable[..., None], views: dict[str, View], options: dict[str, Any]) -> Any:
    app = Dash("site", backend=backend)
    app.server.secret_key = SECRET
    app.layout = html.Div("hello")
    add(app.server, views)
    UserStoreMiddleware(app, **options)
    return app.server


def plain(views: dict[str, View], **options: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        text = views[scope["path"]]()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"plain")]})
        await send({"type": "http.response.body", "body": str(text).encode()})

    return UserStoreMiddleware(app, secret_key=SECRET, **options)


MAKERS = [starlette, added, fastapi, quart, dash_on_fastapi, dash_on_quart, plain]


class Visitor:
    """Someone with a browser.

    :param app: an ASGI app
    """

    def __init__(self, app: Any, cookies: httpx.Cookies | None = None, url: str = "http://shop.example") -> None:
        self._app = app
        self._url = url
        self.cookies = cookies or httpx.Cookies()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return asyncio.run(self.get_async(path, **headers))

    async def get_async(self, path: str, **headers: str) -> httpx.Response:
        return await self._request("GET", path, None, headers)

    def post(self, path: str, json: object, **headers: str) -> httpx.Response:
        return asyncio.run(self._request("POST", path, json, headers))

    async def _request(self, method: str, path: str, json: object, headers: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=self._url, cookies=self.cookies) as client:
            response = await client.request(method, path, json=json, headers=headers)
            self.cookies = client.cookies
        return response

    @property
    def cookie(self) -> str | None:
        return self.cookies.get("user_store")
