"""When values expire, and when a use of them is worth a write.

There are two limits, as recommended by OWASP's Session Management Cheat Sheet. Each use restarts the *idle timeout*
(TTL). The *lifetime* is the age at which a session ends, however active it is. To store the new expiry at each use
would be a write for each read, so an owner is only *touched* when its expiry has moved by a twentieth of the TTL.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple, TypeGuard

from .errors import InvalidTTL

Clock = Callable[[], float]

TOUCHES_PER_TTL = 20

CENTURY = 100 * 365 * 24 * 60 * 60.0


def wall_clock() -> float:
    """:func:`time.time`, looked up at each call, so that freezegun can replace it."""
    return time.time()


class Access(NamedTuple):
    """One access to an owner's values.

    :ivar now: the time, in seconds since the epoch
    :ivar expires: the owner's new expiry, in seconds since the epoch
    :ivar touch_threshold: by how many seconds the stored expiry may differ from ``expires`` before it is updated;
        infinity for an access that keeps nothing alive
    """

    now: float
    expires: float
    touch_threshold: float

    def is_touch_due(self, stored: float) -> bool:
        """Whether an owner with this stored expiry must be touched.

        The difference counts in both directions: an expiry too far ahead was stored before the clock was stepped back,
        and would keep an idle session alive.
        """
        return abs(stored - self.expires) > self.touch_threshold

    def is_future(self, expiry: object) -> TypeGuard[float]:
        """Whether a stored expiry is in the future. A missing or unreadable one is not."""
        return isinstance(expiry, (float, int)) and expiry > self.now

    def is_live_key(self, expiry: object) -> bool:
        """Whether a key has no expiry of its own, or one in the future."""
        return expiry is None or self.is_future(expiry)


class ExpiryPolicy:
    """The rule by which owners expire.

    :param ttl: idle seconds after which an owner's values expire; None keeps them until they are deleted
    :param clock: returns seconds since the epoch, like :func:`time.time`
    :ivar ttl: the same, infinity for None
    """

    def __init__(self, ttl: float | None, clock: Clock = wall_clock) -> None:
        self.clock = clock
        self._is_wall_clock = clock is wall_clock
        self.ttl = math.inf if ttl is None else ttl
        self._touch_threshold = 0.0 if ttl is None else ttl / TOUCHES_PER_TTL

    def access(self, ends_at: float = math.inf, counts_as_use: bool = True) -> Access:
        """An access to values now.

        :param ends_at: when their session ends at the latest, in seconds since the epoch
        :param counts_as_use: whether it keeps the values alive. If not, it moves no expiry, but a first write still
            sets one.
        """
        now = time.time() if self._is_wall_clock else self.clock()  # Saves each operation a frame.
        expires = now + self.ttl
        threshold = self._touch_threshold if counts_as_use else math.inf
        # Each operation does this. Access(...) would take twice the time.
        return tuple.__new__(Access, (now, expires if expires < ends_at else ends_at, threshold))


def seconds(duration: float | timedelta, what: str = "A TTL", longest: float = CENTURY) -> float:
    """Turn a duration, in seconds or as a timedelta, into seconds.

    :param what: its name in error messages
    :param longest: the longest duration allowed, in seconds
    :raises InvalidTTL: if it is not a positive duration of at most ``longest`` seconds
    """
    if isinstance(duration, timedelta):
        value = duration.total_seconds()
    elif isinstance(duration, (int, float)) and not isinstance(duration, bool):
        value = float(duration)
    else:
        raise InvalidTTL(f"{what} must be a number of seconds or a timedelta, not {duration!r}.")
    if not 0 < value <= longest:
        raise InvalidTTL(
            f"{what} must be longer than zero and at most {longest:,.0f} seconds, not {value:g}.", limit=longest
        )
    return value
