"""Waiting for other writers of an owner.

Redis has no queue for them: who is refused asks again. So that many threads do not ask all the time, one of a process
asks for each owner, and the others wait for it.
"""

from __future__ import annotations

import threading
import time
from secrets import SystemRandom
from types import TracebackType

from .server import Server

_SHORTEST_WAIT, _LONGEST_WAIT = 0.0005, 0.02

_chance = SystemRandom()  # After a fork, others would be given the same numbers.


class Queues:
    """For each owner that somebody in this process waits for, the turn to ask, and how many want it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._turns: dict[str, tuple[threading.Lock, int]] = {}

    def enter(self, owner: str) -> threading.Lock:
        """The turn to ask. The caller takes and releases it, and leaves in the end."""
        with self._guard:
            turn, waiting = self._turns.get(owner, (threading.Lock(), 0))
            self._turns[owner] = turn, waiting + 1
        return turn

    def leave(self, owner: str) -> None:
        with self._guard:
            turn, waiting = self._turns.pop(owner)
            if waiting > 1:
                self._turns[owner] = turn, waiting - 1


class Backoff:
    """Waits shortly, at random so that waiters do not meet again, and not beyond so many seconds."""

    def __init__(self, server: Server, queues: Queues, owner: str, seconds: float) -> None:
        self._server = server
        self._queues = queues
        self._owner = owner
        self._deadline = time.monotonic() + seconds
        self._wait = _SHORTEST_WAIT
        self._turn: threading.Lock | None = None
        self._has_turn = False

    def __enter__(self) -> Backoff:
        return self

    def wait(self) -> None:
        """
        :raises StorageBusy: when it has taken too long already
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._server.busy()
        if self._turn is None:
            self._turn = self._queues.enter(self._owner)
            self._has_turn = self._turn.acquire(timeout=left)
        else:
            time.sleep(min(left, self._wait * _chance.uniform(0.5, 1)))
            self._wait = min(self._wait * 2, _LONGEST_WAIT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._turn is not None:
            if self._has_turn:
                self._turn.release()
            self._queues.leave(self._owner)
