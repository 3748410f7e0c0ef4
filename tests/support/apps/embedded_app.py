"""An ASGI app in iframes of other sites: its page keeps a name, and tells it to whom may know it."""

from __future__ import annotations

import os
from typing import Any

from flask_dash_store import UserStoreMiddleware, user_store


def make() -> Any:
    return UserStoreMiddleware(
        serve, secret_key=os.environ["SECRET"], url=os.environ["URL"], embedded=True, cookie_eager=False
    )


async def serve(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": str(user_store.get("name"))})
        await send({"type": "websocket.close"})
        return
    if scope["path"] == "/":
        user_store["name"] = "Ada"
    elif scope["path"] == "/rename" and "name" in user_store:  # No GET should do this, but apps do.
        user_store["name"] = "renamed"
    headers = [(b"content-type", b"text/html")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"<p>The app</p>"})
