"""What is done after responses: removing what has expired, a little at a time, and tidying the storage."""

from __future__ import annotations

import logging
import sys

from .errors import StorageBusy, StorageError
from .mapping import Backend

logger = logging.getLogger("flask_dash_store")

INTERVAL = 60.0
# After a response there is time for a few, while the next request waits for this thread or for the turn to write; and
# then for a few more after a pause, or purging very many would take all of the processor.
FEW = 16
PAUSE = 0.03
BATCH = 200


class Maintenance:
    """Looks after a storage now and then, for an app that has no other process to do it.

    :param prefix: what the names of the owners begin with whose expiry the backend's lifetime sets
    :param keep_ended: seconds for which it must be known that a session was ended: as long as its cookie could be
        replayed
    """

    def __init__(self, backend: Backend, prefix: str, keep_ended: float) -> None:
        self._storage = backend.storage
        self._lifetime = backend.expiry
        self._clock = backend.expiry.clock
        self._prefix = prefix
        self._keep_ended = keep_ended
        self._next = self._clock() + INTERVAL

    def is_due(self, now: float, was_written: bool) -> bool:
        """Whether :meth:`run` has something to do, after a request in which the storage was written to, or not."""
        return self._is_purge_due(now) or (was_written and self._storage.is_untidy)

    def _is_purge_due(self, now: float) -> bool:
        # A clock that was stepped back must not keep it from being due for as long as the step.
        return not (now < self._next <= now + INTERVAL or self._storage.purges_itself)

    def run(self) -> None:
        """Do what is due, once a response has been sent."""
        now = self._clock()
        if self._is_purge_due(now):
            self._purge_a_few(now)
        self._storage.tidy()

    def _purge_a_few(self, now: float) -> None:
        """Where there may be more, it is due again soon."""
        try:
            self._mend_expiries(now)
            self._next = now + INTERVAL
            if FEW in self._purge(now, FEW, wait=False):
                self._next = now + PAUSE
        except StorageBusy:
            self._next = now + PAUSE  # Somebody writes at this access, and users come first.
        except StorageError as error:
            self._next = now + INTERVAL
            logger.warning("What has expired could not be purged: %s", error)

    def run_to_the_end(self) -> int:
        """Purge all that has expired. Returns how many sessions, and users, were removed."""
        total = 0
        # A storage that keeps no index of what has expired looks through all of it for each batch.
        batch = sys.maxsize if self._storage.purges_itself else BATCH
        self._mend_expiries(self._clock())
        while True:
            owners, keys = self._purge(self._clock(), batch, wait=True)
            total += owners
            if owners == keys == 0:
                return total

    def _mend_expiries(self, now: float) -> None:
        """After a clock was stepped back, what it said before would keep sessions alive for as long as the step."""
        if self._next > now + INTERVAL:
            self._storage.limit_expiry(self._prefix, self._lifetime.access().expires)
            self._next = now

    def _purge(self, now: float, limit: int, wait: bool) -> tuple[int, int]:
        keys = self._storage.purge_keys(now, limit, wait)
        return self._storage.purge(now, now - self._keep_ended, limit, wait), keys
