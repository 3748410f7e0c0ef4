"""Metrics for OpenTelemetry, as observable instruments that its exporter reads.

Recording each operation in its SDK would take longer than the operation (8 us), so they are counted here. A histogram
is a counter with the attribute ``le``, as in Prometheus.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from . import BUCKETS

_PREFIX = "user_store"
_LIMITS = (*map(str, BUCKETS), "+Inf")

_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder:
    def __init__(self, app: str) -> None:
        self.app = app
        self.operations: dict[str, _Durations] = {}
        self.errors: Counter[tuple[str, str]] = Counter()
        self.removed: Counter[str] = Counter()
        self.sessions: Counter[str] = Counter()
        _recorders.add(self)

    def observer(self, operation: str) -> Callable[[float], object]:
        durations = self.operations[operation] = _Durations()
        counts, limits, find = durations.counts, BUCKETS, bisect_left

        # CPython only switches threads at calls and loops, so no increment is lost.
        def observe(seconds: float) -> None:
            bucket = find(limits, seconds)
            counts[bucket] += 1
            durations.seconds += seconds

        return observe

    def failed(self, operation: str, error: str) -> None:
        self.errors[operation, error] += 1

    def purged(self, owners: int, keys: int) -> None:
        self.removed["owners"] += owners
        self.removed["keys"] += keys

    def session_started(self, app: Any, visitor: str) -> None:  # noqa: ARG002
        self.sessions["started"] += 1

    def session_ended(self) -> None:
        self.sessions["ended"] += 1


class _Durations:
    """The calls of an operation: how many per bucket, and how many seconds together."""

    def __init__(self) -> None:
        self.counts = [0] * len(_LIMITS)
        self.seconds = 0.0


Numbers = Iterator[tuple[float, dict[str, str]]]


def _calls(recorder: Recorder) -> Numbers:
    for operation, durations in recorder.operations.items():
        yield sum(durations.counts), {"operation": operation}


def _seconds(recorder: Recorder) -> Numbers:
    for operation, durations in recorder.operations.items():
        yield durations.seconds, {"operation": operation}


def _buckets(recorder: Recorder) -> Numbers:
    for operation, durations in recorder.operations.items():
        for number, limit in enumerate(_LIMITS, 1):
            yield sum(durations.counts[:number]), {"operation": operation, "le": limit}


def _errors(recorder: Recorder) -> Numbers:
    for (operation, error), number in list(recorder.errors.items()):
        yield number, {"operation": operation, "error.type": error}


def _purged(recorder: Recorder) -> Numbers:
    for what in ("owners", "keys"):
        yield recorder.removed[what], {"what": what}


def _started(recorder: Recorder) -> Numbers:
    yield recorder.sessions["started"], {}


def _ended(recorder: Recorder) -> Numbers:
    yield recorder.sessions["ended"], {}


def _observed(numbers: Callable[[Recorder], Numbers]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for each in list(_recorders):
            for number, attributes in numbers(each):
                yield Observation(number, {"app": each.app, **attributes})

    return observe


_meter = get_meter("flask_dash_store")
for _name, _numbers, _unit, _description in (
    ("operations", _calls, "{call}", "Calls of the storage."),
    ("operation.duration", _seconds, "s", "How long all calls of the storage took together."),
    ("operation.duration.bucket", _buckets, "{call}", "Calls of the storage that took up to `le` seconds."),
    ("errors", _errors, "{call}", "Calls of the storage that failed."),
    ("purged", _purged, "{thing}", "What maintenance has removed after it had expired."),
    ("sessions.started", _started, "{session}", "Sessions that began."),
    ("sessions.ended", _ended, "{session}", "Sessions that were ended, by a logout say."),
):
    _meter.create_observable_counter(f"{_PREFIX}.{_name}", [_observed(_numbers)], _unit, _description)
