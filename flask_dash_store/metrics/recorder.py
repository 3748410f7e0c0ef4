"""What keeps the counts of one app's storage in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

# Seconds up to which operations are counted together: a read from SQLite takes 10 microseconds, a lock up to 5 seconds.
BUCKETS = (0.00002, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0)


class Recorder(ABC):
    """Counts, under the name of an app."""

    @abstractmethod
    def observer(self, operation: str) -> Callable[[float], object]:
        """What is called with the seconds that each call of an operation has taken."""

    @abstractmethod
    def failed(self, operation: str, error: str) -> None:
        """A call has failed, with an error of this name."""

    @abstractmethod
    def purged(self, owners: int, keys: int) -> None:
        """Maintenance has removed so much of what had expired."""

    @abstractmethod
    def session_started(self, app: Any, visitor: str) -> None:
        """Receives the signal of this name."""

    @abstractmethod
    def session_ended(self) -> None:
        """A session has been ended."""
