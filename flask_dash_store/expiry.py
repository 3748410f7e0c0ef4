"""When values expire, and when a use of them is worth a write.

Two limits hold at once, as OWASP's Session Management Cheat Sheet asks: the *idle timeout* (TTL) is moved by each use;
the *lifetime* is the age at which a session ends however busy it is. To move an expiry at each use would be a write
for each read, so it is *touched* only when it has moved by a twentieth of the TTL.
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
    """:func:`time.time`, looked up at each call, so that what has replaced it in its module (freezegun) is asked."""
    return time.time()


class Access(NamedTuple):
    """One use of an owner's values: what time it is, and what the use does to the owner's expiry.

    ``now`` and ``expires`` (the owner's new expiry) are seconds since the epoch. ``touch_threshold`` is how far, in
    seconds, a stored expiry may be from ``expires`` before it is worth a write to move it; infinity for a use that
    keeps nothing alive.
    """

    now: float
    expires: float
    touch_threshold: float

    def is_touch_due(self, stored: float) -> bool:
        """Whether an owner whose stored expiry is ``stored`` has to be touched.

        The distance counts in both directions: an expiry that lies too far ahead was written before the clock
        stepped back, and would otherwise keep an idle session alive.
        """
        return abs(stored - self.expires) > self.touch_threshold

    def is_future(self, expiry: object) -> TypeGuard[float]:
        """Whether a stored expiry is yet to come. One that is missing or unreadable has passed."""
        return isinstance(expiry, (float, int)) and expiry > self.now

    def is_live_key(self, expiry: object) -> bool:
        """Whether a key has no expiry of its own, or one that is yet to come; an unreadable one has passed."""
        return expiry is None or self.is_future(expiry)


class ExpiryPolicy:
    """The rule by which owners expire.

    :param ttl: idle seconds after which an owner's values are gone; None keeps them until they are deleted
    :param clock: gives seconds since the epoch, like :func:`time.time`
    :ivar ttl: the same, infinity for None
    """

    def __init__(self, ttl: float | None, clock: Clock = wall_clock) -> None:
        self.clock = clock
        self._is_wall_clock = clock is wall_clock
        self.ttl = math.inf if ttl is None else ttl
        self._touch_threshold = 0.0 if ttl is None else ttl / TOUCHES_PER_TTL

    def access(self, ends_at: float = math.inf, counts_as_use: bool = True) -> Access:
        """A use of values now.

        :param ends_at: when their session ends at the latest, in seconds since the epoch
        :param counts_as_use: whether it keeps the values alive. One that does not moves no expiry, but still gives
            one to an owner without.
        """
        now = time.time() if self._is_wall_clock else self.clock()  # A frame less, for each operation.
        expires = now + self.ttl
        threshold = self._touch_threshold if counts_as_use else math.inf
        # Access(...) does the same in twice the time, and this is done for each operation.
        return tuple.__new__(Access, (now, expires if expires < ends_at else ends_at, threshold))


def seconds(duration: float | timedelta, what: str = "A TTL", longest: float = CENTURY) -> float:
    """Turn a duration, in seconds or as a timedelta, into seconds.

    :param what: what error messages call it
    :param longest: the longest duration allowed, in seconds
    :raises InvalidTTL: when it is not a positive duration of at most ``longest`` seconds
    """
    if isinstance(duration, timedelta):
        value = duration.total_seconds()
    elif isinstance(duration, (int, float)) and not isinstance(duration, bool):
        value = float(duration)
    else:
        raise InvalidTTL(f"{what} must be a number of seconds or a timedelta, not {duration!r}.")
    if not 0 < value <= longest:
        raise InvalidTTL(
            f"{what} must be longer than zero and at most {longest:g} seconds, not {value:g}.", limit=longest
        )
    return value
