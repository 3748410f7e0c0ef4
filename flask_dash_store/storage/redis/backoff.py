"""Trying again, with pauses that grow, until a deadline. Redis has no queue for those who are refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from secrets import SystemRandom

from ...errors import StorageError

_SHORTEST, _LONGEST = 0.0005, 0.01

_random = SystemRandom()  # After a fork, another generator would give both processes the same numbers.


class Backoff:
    """The pauses between the tries of one call: at random, so that those who met once do not meet again.

    :param timeout: seconds from now until the deadline
    :param error: makes the error for a deadline that has passed
    """

    def __init__(self, timeout: float, error: Callable[[], StorageError]) -> None:
        self._deadline = time.monotonic() + timeout
        self._error = error
        self._longest = _SHORTEST

    def wait(self) -> None:
        """Pause before the next try.

        :raises StorageError: when the deadline has passed: the given one
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._error()
        time.sleep(min(left, self._longest * _random.uniform(0.5, 1)))
        self._longest = min(self._longest * 2, _LONGEST)
