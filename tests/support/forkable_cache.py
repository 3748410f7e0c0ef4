"""A cache of diskcache in a process that forks, as Dash's DiskcacheManager.call_job_fn does.

diskcache keeps a connection to its SQLite file open in each thread, and Dash forks while other threads use theirs.
SQLite forbids both: what the child inherits of its locks is never released, so a job may find the file locked when it
stores its result (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import diskcache

in_use_or_forking = threading.RLock()
os.register_at_fork(
    before=in_use_or_forking.acquire,
    after_in_parent=in_use_or_forking.release,
    after_in_child=in_use_or_forking.release,
)


def _not_open_at_a_fork(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(cache: diskcache.Cache, *args: Any, **options: Any) -> Any:
        with in_use_or_forking:
            try:
                return method(cache, *args, **options)
            finally:
                cache.close()

    return call


class ForkableCache(diskcache.Cache):
    """With the methods that Dash calls."""

    __init__ = _not_open_at_a_fork(diskcache.Cache.__init__)
    get = _not_open_at_a_fork(diskcache.Cache.get)
    set = _not_open_at_a_fork(diskcache.Cache.set)
    delete = _not_open_at_a_fork(diskcache.Cache.delete)

    @contextmanager
    def transact(self, retry: bool = False) -> Iterator[None]:
        with in_use_or_forking, super().transact(retry):
            yield
        self.close()
