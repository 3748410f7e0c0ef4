"""What a transaction is on every storage: a block of one context, which its calls find, one thread at a time.

It is found by a context variable, not by the thread: the coroutines of an async callback share a thread, and what
one of them has begun is no business of the others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from ..errors import StorageBusy, StorageError

_begun: ContextVar[tuple[Transaction, ...]] = ContextVar("flask_dash_store.blocks", default=())


class Transaction:
    """A block of one context: of a thread, or of an asyncio task and the tasks it starts.

    :param place: what it is on, by which :func:`current_transaction` finds it
    :param name: what error messages call that
    :param timeout: seconds that a thread waits for another one that is in the block too
    """

    def __init__(self, place: object, name: str, timeout: float) -> None:
        self.place = place
        self.is_open = False
        self._name = name
        self._timeout = timeout
        self._process = os.getpid()
        self._one_call = threading.RLock()
        self._on_rollback: list[Callable[[], None]] = []

    def _open(self) -> None:
        """Let the calls of this context find it."""
        self.is_open = True
        _begun.set((self, *_still_open()))

    def _shut(self) -> None:
        with self._one_call:  # A task that this context has started may be amid one.
            self.is_open = False
        _begun.set(_still_open())

    def _is_ours(self) -> bool:
        """Whether this is not a fork from inside the block, which is the parent's."""
        return self._process == os.getpid()

    def _acquire_call(self) -> None:
        """Keep out the other threads that are in this block, in this process, until ``_one_call`` is released."""
        if not self._is_ours():  # Nobody here gives back what another thread has held when it was forked.
            raise StorageError(
                f"This process was forked inside a transaction on {self._name}, which is its parent's. "
                "Start processes before the block begins, or after it ends."
            )
        if not self._one_call.acquire(timeout=self._timeout):
            raise StorageBusy(
                f"A nested block, or a call, of another thread in the same transaction on {self._name} took "
                f"longer than the {self._timeout:g} seconds that USER_STORE_TIMEOUT (timeout=) lets a call wait. "
                "Do not wait for a thread inside a nested block."
            )

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        self._acquire_call()
        try:
            yield
        finally:
            self._one_call.release()

    def _check_open(self) -> None:
        if not self.is_open:
            raise StorageError(
                f"The transaction on {self._name} that this task or thread was started in has ended. Wait for it "
                "inside the block."
            )

    def on_rollback(self, call: Callable[[], None]) -> None:
        """Have something done if what this block has done so far is undone."""
        self._on_rollback.append(call)

    def _run_on_rollback(self, since: int = 0) -> None:
        """Do what had to be done if that is undone which came after so many others."""
        for call in self._on_rollback[since:]:
            call()
        del self._on_rollback[since:]


B = TypeVar("B", bound=Transaction)


def current_transaction(place: object, kind: type[B]) -> B | None:
    """The block on a place that the present context is in; None when it is in none."""
    begun = _begun.get()
    if begun:
        for block in begun:
            if block.place is place and block.is_open and isinstance(block, kind):
                return block
    return None


def _still_open() -> tuple[Transaction, ...]:
    return tuple(block for block in _begun.get() if block.is_open)
