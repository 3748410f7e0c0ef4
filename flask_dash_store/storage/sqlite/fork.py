"""Keeping the connections of all pools out of a child, when this process forks."""

from __future__ import annotations

import os

from ..lock import Lock
from ..transaction import begun
from .database import Transaction
from .pool import Pool, pools

# Seconds that a fork waits for another one.
FORK_TIMEOUT = 60.0


class _Fork:
    """Holds all pools still while the process forks."""

    def __init__(self) -> None:
        self._one_at_a_time = Lock("fork of this process", FORK_TIMEOUT)
        self._held: list[Pool] = []

    def before(self) -> None:
        self._one_at_a_time.acquire(FORK_TIMEOUT)
        self._held = []
        for pool in list(pools):
            self._held.append(pool)  # First, for a signal's handler may raise in between.
            pool.before_fork()
        for pool in self._held:
            pool.drain(wait=not _is_in_transaction(pool))  # A fork inside a transaction would wait for itself.

    def after_in_parent(self) -> None:
        try:
            for pool in self._held:
                pool.after_fork_in_parent()
        finally:
            self._one_at_a_time.release()

    def after_in_child(self) -> None:
        for pool in self._held:
            pool.after_fork_in_child()
        self._one_at_a_time = Lock("fork of this process", FORK_TIMEOUT)


def _is_in_transaction(pool: Pool) -> bool:
    open_here = (reference() for reference in begun.get())
    return any(isinstance(each, Transaction) and each.pool is pool and each.is_open for each in open_here)


if hasattr(os, "register_at_fork"):
    _fork = _Fork()
    os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)
