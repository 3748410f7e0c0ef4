"""After responses, from time to time, the storage removes a little of what has expired, and frees its space."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from .errors import StorageBusy, StorageError
from .storage.base import Expired, ExpiryLimit, Removed
from .store.base import StoreContext

logger = logging.getLogger("flask_dash_store")

INTERVAL = 60.0
# Each run is short, because the next request may wait for this thread or for the lock. The pause between two runs keeps
# a large removal from taking the whole processor.
PAUSE = 0.03


class Maintenance:
    """Maintains a storage from time to time, so that no other process has to.

    :param prefix: the prefix of owners whose expiry the context's policy sets
    :param keep_ended: seconds for which ended sessions are remembered: as long as their cookies could be replayed
    :param expired: returns the function to call for each owner whose values have expired; None for none
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
        """Whether to call :meth:`run` after a request.

        :param was_written: whether the request has written to its store
        """
        # The upper bound: after the clock was stepped back, it must not wait for as long as the step.
        return not now < self._next <= now + INTERVAL or (was_written and self._storage.needs_maintenance)

    def run(self) -> None:
        """Do a little, after a response was sent. If there is more to do, it is due again soon."""
        now = self._clock()
        limit = self._expiry_limit(now)
        self._next = now + INTERVAL
        try:
            if self._maintain(now, limit).has_more:
                self._next = now + PAUSE
        except StorageBusy:
            self._next = now + PAUSE  # Others are writing. Visitors come first.
        except StorageError as error:
            logger.warning("Maintenance could not remove expired values, and tries again later: %s", error)

    def run_to_the_end(self, progress: Callable[[int], object] = lambda _: None) -> int:
        """Remove everything that has expired. Returns how many sessions and users were removed.

        :param progress: called from time to time with how many were removed so far
        :raises StorageError: if the storage fails
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
        """The latest valid expiry, if the clock was stepped back: earlier expiries would live longer by that step."""
        if self._next <= now + INTERVAL:
            return None
        return ExpiryLimit(self._prefix, self._expiry.access().expires)
