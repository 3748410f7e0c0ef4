"""How long a call may wait for a lock, and the error when it has waited that long.

On the event loop of a server, all other requests wait with it, so there it is :data:`LOOP_TIMEOUT`. Zero would be too
little: two processes that write as Dash's callbacks do find SQLite's lock held in one write of a hundred, mostly for
less than 5 ms. A lock that is held for longer belongs to a ``transaction()`` block, perhaps of another task on the same
loop, which could never end.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from ..errors import StorageBusy

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

LOOP_TIMEOUT = 0.25

_server_loops: weakref.WeakSet[AbstractEventLoop] = weakref.WeakSet()


def note_server_loop(loop: AbstractEventLoop) -> None:
    """From now on, calls on this loop wait for at most :data:`LOOP_TIMEOUT` seconds."""
    _server_loops.add(loop)


def longest_wait(timeout: float) -> float:
    """How many seconds a call with this timeout may wait here.

    An asynchronous Flask view, or a callback in a thread, runs on a loop of its own, which may wait for the whole
    timeout.
    """
    if not _server_loops:
        return timeout
    from asyncio import _get_running_loop

    return min(timeout, LOOP_TIMEOUT) if _get_running_loop() in _server_loops else timeout


def busy(name: str, timeout: float) -> StorageBusy:
    """The error for a lock that others held for longer than a call may wait.

    :param name: what error messages call the thing that is locked, without an article
    :param timeout: the seconds of USER_STORE_TIMEOUT
    """
    longest = longest_wait(timeout)
    if longest < timeout:
        return StorageBusy(
            f"The {name} was in use by others for longer than the {longest:g} seconds for which a call may keep an "
            "event loop waiting, and all other requests with it. In a thread it may wait for longer: use the store in "
            "a function, and await asyncio.to_thread(function). Keep transaction() blocks short, without an await.",
            limit=longest,
        )
    return StorageBusy(
        f"The {name} was in use by others for longer than the {timeout:g} seconds that USER_STORE_TIMEOUT (timeout=) "
        "lets a call wait. Keep transaction() blocks short, or raise it.",
        limit=timeout,
    )
