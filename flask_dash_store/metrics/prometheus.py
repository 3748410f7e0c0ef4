"""Metrics in the default registry of prometheus_client, also in its multiprocess mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Histogram

from . import BUCKETS

_PREFIX = "user_store"
_DURATIONS = Histogram(
    f"{_PREFIX}_operation_duration_seconds",
    "How long calls of the storage took.",
    ["app", "operation"],
    buckets=BUCKETS,
)
_ERRORS = Counter(f"{_PREFIX}_errors", "Calls of the storage that failed.", ["app", "operation", "error"])
_PURGED = Counter(f"{_PREFIX}_purged", "What maintenance has removed after it had expired.", ["app", "what"])
_STARTED = Counter(f"{_PREFIX}_sessions_started", "Sessions that began.", ["app"])
_ENDED = Counter(f"{_PREFIX}_sessions_ended", "Sessions that were ended, by a logout say.", ["app"])


class Recorder:
    def __init__(self, app: str) -> None:
        self._app = app
        self._owners, self._keys = _PURGED.labels(app, "owners"), _PURGED.labels(app, "keys")
        self._started, self._ended = _STARTED.labels(app), _ENDED.labels(app)

    def observer(self, operation: str) -> Callable[[float], object]:
        return _DURATIONS.labels(self._app, operation).observe

    def failed(self, operation: str, error: str) -> None:
        _ERRORS.labels(self._app, operation, error).inc()

    def purged(self, owners: int, keys: int) -> None:
        self._owners.inc(owners)
        self._keys.inc(keys)

    def session_started(self, app: Any, visitor: str) -> None:  # noqa: ARG002
        self._started.inc()

    def session_ended(self) -> None:
        self._ended.inc()
