"""Processes that work at the same time, each with an object of its own, as the workers of a server have."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

_worker: Any = None


class Crew(AbstractContextManager["Crew"]):
    """So many processes, each with what ``make(*arguments)`` gives it."""

    def __init__(self, size: int, make: Callable[..., object], *arguments: object) -> None:
        # Spawned, so that they share nothing with this process; a pool of one each, so that a call reaches all of them.
        spawn = multiprocessing.get_context("spawn")
        self._members = [ProcessPoolExecutor(1, spawn, _set_up, (make, arguments)) for _ in range(size)]
        self.pids = [pool.submit(os.getpid).result() for pool in self._members]

    def call(self, method: str, *arguments: object) -> list[Any]:
        """Have all of them call a method at the same time."""
        futures = [pool.submit(_call, method, arguments) for pool in self._members]
        return [future.result() for future in futures]

    def __exit__(self, *_: object) -> None:
        for pool in self._members:
            pool.shutdown()


def _set_up(make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    global _worker
    _worker = make(*arguments)


def _call(method: str, arguments: tuple[object, ...]) -> Any:
    return getattr(_worker, method)(*arguments)
