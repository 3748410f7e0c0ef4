"""Waiting for others: for threads of this process, and for other processes that have one of SQLite's locks.

SQLite's own busy handler is not used. It looks again after 1, 2, 5, 10, 15, ... ms, so that whoever is unlucky a few
times waits far longer than the lock was held; and where gevent has replaced what waiting is, it stops all greenlets of
the process. Here the lock is looked at very soon, for a small write takes some 20 µs, and then every :data:`PAUSE`
seconds. Whoever takes it many times in a row has to leave it free for longer than that in between, or somebody who has
waited for long does not see that it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import apsw

T = TypeVar("T")

FIRST_PAUSE = 0.00005
PAUSE = 0.001


def retry(call: Callable[[], T], timeout: float) -> T:
    """Call until no other process is in the way, for so many seconds.

    :raises apsw.BusyError: when one still is
    """
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        try:
            return call()
        except apsw.BusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, PAUSE)


def take(lock: threading.Lock, timeout: float) -> bool:
    """Wait for a lock, for so many seconds. Returns whether it was had."""
    if type(lock) is type(threading.Lock()):
        return lock.acquire(timeout=timeout)
    # It was made before gevent replaced what threads are, as with `gunicorn --preload`. To wait for it would stop
    # all greenlets of the process, and so the one that holds it.
    deadline = time.monotonic() + timeout
    while not lock.acquire(blocking=False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE)
    return True
