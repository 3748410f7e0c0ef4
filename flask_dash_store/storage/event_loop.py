"""How long a call may wait on the event loop of a server, where all other requests wait with it.

Not to wait at all would be too little: two processes that write as Dash's callbacks do find SQLite's lock taken in one
write of a hundred, mostly for less than 5 ms. What is held for longer is held by a ``transaction()`` block, perhaps of
another task of this loop, which could never end.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

LOOP_TIMEOUT = 0.25

_server_loops: weakref.WeakSet[AbstractEventLoop] = weakref.WeakSet()


def note_server_loop(loop: AbstractEventLoop) -> None:
    """From now on, calls on this loop wait for :data:`LOOP_TIMEOUT` seconds at most."""
    _server_loops.add(loop)


def longest_wait(timeout: float) -> float:
    """The seconds for which a call may wait here, with this timeout.

    The loop of an asynchronous Flask view, or of a callback in a thread, is of one request, so there it is the timeout.
    """
    if not _server_loops:
        return timeout
    from asyncio import _get_running_loop

    return min(timeout, LOOP_TIMEOUT) if _get_running_loop() in _server_loops else timeout
