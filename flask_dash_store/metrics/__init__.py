"""Metrics of what an app's storage does.

If metrics are on, the methods of the storage object are replaced by ones that time themselves. So they cost nothing if
they are off.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Protocol

from ..errors import ConfigurationError, UserStoreError
from ..expiry import Access
from ..owner import Owner
from ..signals import session_started
from ..storage.base import Removed, Storage

Exporter = Literal["opentelemetry", "prometheus"]
_PACKAGES = {"opentelemetry": "opentelemetry-api", "prometheus": "prometheus_client"}

# The upper bounds of the histogram, in seconds: a read from SQLite takes 10 us, a wait for a lock up to 5 s.
BUCKETS = (0.00002, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0)


class Recorder(Protocol):
    """Keeps the counts of one app's storage in this process."""

    def observer(self, operation: str) -> Callable[[float], object]:
        """A function that is called with the duration of each call of an operation, in seconds."""

    def failed(self, operation: str, error: str) -> None:
        """Count a call that failed with an error of this name."""

    def purged(self, owners: int, keys: int) -> None:
        """Count what maintenance has removed after it had expired."""

    def session_started(self, app: Any, visitor: str) -> None:
        """Count a session, as a receiver of the signal of this name."""

    def session_ended(self) -> None:
        """Count a session that was ended."""


OPERATIONS = (
    "get", "has", "keys", "items", "stat", "describe", "versions",
    "set", "set_all", "replace", "expire", "delete", "clear",
    "renew", "current", "end", "sessions", "owners", "maintain",
)  # fmt: skip


def check_exporter(exporter: Exporter) -> None:
    """Check that the package which an exporter needs is installed.

    :raises ConfigurationError: if it is not
    """
    try:
        import_module(f".{exporter}", __name__)
    except ImportError as error:
        raise ConfigurationError(
            f"USER_STORE_METRICS (metrics=) is {exporter!r}, but the package {_PACKAGES[exporter]} cannot be imported. "
            f"Install it: pip install 'flask_dash_store[{exporter}]'."
        ) from error


def measure(storage: Storage, exporter: Exporter, app: Any, name: str) -> None:
    """From now on, count what a storage does.

    :param app: the sender of the signals, whose sessions are counted
    :param name: the app's name in the metrics
    """
    recorder: Recorder = import_module(f".{exporter}", __name__).Recorder(name)
    instance: Any = storage
    for operation in OPERATIONS:
        setattr(instance, operation, _measured(getattr(storage, operation), operation, recorder))
    instance.end = _noting_ends(storage.end, recorder)
    instance.maintain = _noting_removals(storage.maintain, recorder)
    instance.transaction = _measured_transactions(storage.transaction, recorder)
    instance.metrics_recorder = recorder  # Keeps it alive: the signal only has a weak reference.
    session_started.connect(recorder.session_started, app)


def _measured(call: Callable[..., Any], operation: str, recorder: Recorder) -> Callable[..., Any]:
    observe = recorder.observer(operation)

    def measured(*args: Any, **options: Any) -> Any:
        began = perf_counter()
        try:
            result = call(*args, **options)
        except UserStoreError as error:
            recorder.failed(operation, type(error).__name__)
            raise
        observe(perf_counter() - began)
        return result

    return measured


def _noting_ends(end: Callable[[Owner, Access], float], recorder: Recorder) -> Callable[[Owner, Access], float]:
    def noting(owner: Owner, access: Access) -> float:
        ended_at = end(owner, access)
        if ended_at == access.now:
            recorder.session_ended()
        return ended_at

    return noting


def _noting_removals(maintain: Callable[..., Removed], recorder: Recorder) -> Callable[..., Removed]:
    def noting(*args: Any, **options: Any) -> Removed:
        removed = maintain(*args, **options)
        recorder.purged(removed.owners, removed.keys)
        return removed

    return noting


def _measured_transactions(
    transaction: Callable[[Owner], AbstractContextManager[object]], recorder: Recorder
) -> Callable[[Owner], AbstractContextManager[object]]:
    begin = recorder.observer("begin")

    class Measured:
        """A transaction whose beginning is timed, because that is when it waits for locks."""

        def __init__(self, owner: Owner) -> None:
            self._block = transaction(owner)

        def __enter__(self) -> object:
            began = perf_counter()
            try:
                entered = self._block.__enter__()
            except UserStoreError as error:
                recorder.failed("begin", type(error).__name__)
                raise
            begin(perf_counter() - began)
            return entered

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> bool | None:
            try:
                return self._block.__exit__(kind, error, traceback)
            except UserStoreError as failure:
                if failure is not error:
                    recorder.failed("commit", type(failure).__name__)
                raise

    return Measured
