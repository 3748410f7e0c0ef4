"""What is done after responses: the storage removes what has expired, a little at a time, and gives its space back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from .errors import StorageBusy, StorageError
from .storage.base import Expired, ExpiryLimit, Removed
from .store.base import StoreContext

logger = logging.getLogger("flask_dash_store")

INTERVAL = 60.0
# One call does a little, while the next request waits for this thread or for the lock; then more after a pause, or
# removing very much would take all of the processor.
PAUSE = 0.03


class Maintenance:
    """Maintains a storage from time to time, so that the app needs no other process for it.

    :param prefix: what the names of the owners begin with whose expiry the context's policy sets
    :param keep_ended: seconds for which it must be known that a session was ended: as long as its cookie could be
        replayed
    :param expired: gives what is to be called for each owner whose values have expired, if anything is
    """

    def __init__(
        self,
        context: StoreContext,
        prefix: str,
        keep_ended: float = math.inf,
        expired: Callable[[], Expired | None] = lambda: None,
    ) -> None:
        self._storage = context.storage
        self._expiry = context.expiry
        self._clock = context.expiry.clock
        self._prefix = prefix
        self._keep_ended = keep_ended
        self._expired = expired
        self._next = self._clock() + INTERVAL

    def is_due(self, now: float, was_written: bool) -> bool:
        """Whether :meth:`run` has something to do, after a request in which the storage was written to, or not."""
        # A clock that was stepped back must not keep it from being due for as long as the step.
        return not now < self._next <= now + INTERVAL or (was_written and self._storage.needs_maintenance)

    def run(self) -> None:
        """Do a little, after a response was sent. Where there is more to do, it is due again soon."""
        now = self._clock()
        limit = self._expiry_limit(now)
        self._next = now + INTERVAL
        try:
            if self._maintain(now, limit).has_more:
                self._next = now + PAUSE
        except StorageBusy:
            self._next = now + PAUSE  # Others are writing, and visitors come first.
        except StorageError as error:
            logger.warning("What has expired could not be purged: %s", error)

    def run_to_the_end(self, progress: Callable[[int], object] = lambda _: None) -> int:
        """Remove all that has expired. Returns how many sessions, and users, were removed.

        :param progress: called from time to time with how many were removed so far
        :raises StorageError: when the storage fails
        """
        limit = self._expiry_limit(self._clock())
        total = 0
        while True:
            removed = self._maintain(self._clock(), limit, wait=True)
            total += removed.owners
            progress(total)
            if not removed.has_more:
                return total

    def _maintain(self, now: float, limit: ExpiryLimit | None, wait: bool = False) -> Removed:
        return self._storage.maintain(now, now - self._keep_ended, limit, wait, self._expired())

    def _expiry_limit(self, now: float) -> ExpiryLimit | None:
        """After a clock was stepped back, what it said before would keep sessions alive for as long as the step."""
        if self._next <= now + INTERVAL:
            return None
        return ExpiryLimit(self._prefix, self._expiry.access().expires)
