"""What looks whether the sessions of open websockets have ended leaves the server to the app."""

from __future__ import annotations

import asyncio
from typing import Any

from asgi_visitor import SECRET
from servers_redis import RedisServer, short_folder

from flask_dash_store import UserStoreMiddleware
from flask_dash_store.http.socket_watch import INTERVAL

SOCKETS = 40  # more than the threads that asyncio.to_thread() has


async def stay_open(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await receive()


def test_while_the_storage_does_not_answer_sockets_leave_the_threads_of_the_loop_to_the_app() -> None:
    with short_folder() as folder, RedisServer(folder) as server:
        asyncio.run(_serve_while_it_does_not_answer(server))


async def _serve_while_it_does_not_answer(server: RedisServer) -> None:
    app = UserStoreMiddleware(stay_open, secret_key=SECRET, url=server.url, timeout=10)
    closed = asyncio.Event()
    accepted: list[str] = []

    async def receive() -> Any:
        await closed.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        accepted.append(message["type"])
        if len(accepted) == SOCKETS:
            server.pause()

    scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": []}
    sockets = [asyncio.create_task(app(dict(scope), receive, send)) for _ in range(SOCKETS)]
    while len(accepted) < SOCKETS:
        await asyncio.sleep(0.01)
    try:
        await asyncio.sleep(1.2 * INTERVAL)  # Then each has been looked at, or is to be.
        await asyncio.wait_for(asyncio.to_thread(int), 2)
    finally:
        server.resume()
        closed.set()
        await asyncio.gather(*sockets)
        app.close()
