"""The event loop of a server never stands still for a lock for longer than LOOP_TIMEOUT."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asgi_visitor
import pytest
from asgi_visitor import SECRET
from urls import SERVERS

from flask_dash_store import StorageBusy, UserStoreMiddleware, user_store
from flask_dash_store.storage.timeouts import LOOP_TIMEOUT, longest_wait

TIMEOUT = 30.0

View = Callable[[UserStoreMiddleware], Awaitable[Any]]


def answer(url: str, view: View) -> Any:
    """What a coroutine returns that is a request of an ASGI app with this storage."""
    result: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user_store["name"] = "Ada"
        result.append(await view(stores))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    stores = UserStoreMiddleware(app, secret_key=SECRET, url=url, timeout=TIMEOUT)
    asgi_visitor.Visitor(stores).get("/")
    stores.close()
    return result[0]


def test_a_lock_that_a_thread_holds_for_long_is_an_error_that_says_what_to_do(url: str) -> None:
    async def view(stores: UserStoreMiddleware) -> str:
        session_id = str(user_store.session_id)
        has_begun, may_end = threading.Event(), threading.Event()

        def hold() -> None:
            with stores.open(session_id).transaction():
                stores.open(session_id)["held"] = 1
                has_begun.set()
                may_end.wait(TIMEOUT)

        holder = asyncio.create_task(asyncio.to_thread(hold))
        await asyncio.to_thread(has_begun.wait, TIMEOUT)
        with pytest.raises(StorageBusy, match=r"asyncio\.to_thread") as raised:
            user_store["name"] = "Bob"
        assert raised.value.limit == LOOP_TIMEOUT
        write = asyncio.create_task(asyncio.to_thread(user_store.set, "name", "Eve"))  # It waits as long as it takes.
        may_end.set()
        await asyncio.gather(holder, write)
        return str(user_store["name"])

    assert answer(url, view) == "Eve"


async def await_in_a_transaction() -> tuple[asyncio.Task[None], asyncio.Event]:
    """A task that has written in a transaction, and the event that it awaits before it writes Bob and commits."""
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        with user_store.transaction():
            user_store["name"] = "held"
            has_begun.set()
            await may_end.wait()
            user_store["name"] = "Bob"

    holder = asyncio.create_task(hold())
    await has_begun.wait()
    return holder, may_end


@pytest.mark.parametrize("url", ["sqlite:///{}/store.sqlite", "memory://"])
def test_a_write_while_another_task_awaits_in_a_transaction_is_an_error_at_once(url: str, tmp_path: Path) -> None:
    async def view(_: UserStoreMiddleware) -> Any:
        holder, may_end = await await_in_a_transaction()
        with pytest.raises(StorageBusy, match="Do not await"):  # The error for a lock that was waited for is another.
            user_store["name"] = "Eve"
        seen = user_store["name"]
        may_end.set()
        await holder
        return seen, user_store["name"]

    assert answer(url.format(tmp_path), view) == ("Ada", "Bob")


@pytest.mark.parametrize("backend", SERVERS)
def test_on_redis_and_postgresql_an_awaited_transaction_keeps_its_own_visitors_writes_waiting_alone_and_shortly(
    backend: str, tmp_path: Path
) -> None:
    async def view(stores: UserStoreMiddleware) -> Any:
        holder, may_end = await await_in_a_transaction()
        with pytest.raises(StorageBusy, match=r"asyncio\.to_thread") as raised:
            user_store["name"] = "Eve"
        stores.for_user("another")["name"] = "Carl"
        seen = user_store["name"], stores.for_user("another")["name"], raised.value.limit
        may_end.set()
        await holder
        return *seen, user_store["name"]

    assert answer(SERVERS[backend](tmp_path), view) == ("Ada", "Carl", LOOP_TIMEOUT, "Bob")


def test_only_on_a_servers_loop_a_call_waits_less_than_the_timeout(tmp_path: Path) -> None:
    async def view(_: UserStoreMiddleware) -> list[float]:
        return [longest_wait(TIMEOUT), longest_wait(0.1), await asyncio.to_thread(longest_wait, TIMEOUT)]

    async def elsewhere() -> float:
        return longest_wait(TIMEOUT)

    assert answer(f"sqlite:///{tmp_path}/store.sqlite", view) == [LOOP_TIMEOUT, 0.1, TIMEOUT]
    assert (asyncio.run(elsewhere()), longest_wait(TIMEOUT)) == (TIMEOUT, TIMEOUT)
