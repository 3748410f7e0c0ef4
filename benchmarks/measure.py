"""Measuring on a machine that is noisy and shared: by comparison within one run, never by a number alone.

What is compared is measured in turns, a short block each, so that a slow minute of the machine is slow for all. A
ratio is taken within each round, and the median of the rounds' ratios is what counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import repeat
from time import perf_counter
from typing import NamedTuple, TypeVar

Label = TypeVar("Label", bound=Hashable)

Samples = list[float]
"""One number from each round."""

Outcome = Samples | str
"""The samples, or why there are none."""


class Spread(NamedTuple):
    """The middle of some samples, and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(outcome: Outcome, base: Outcome) -> Outcome:
    """Round by round, how many times the base. A failure of either is the ratio's."""
    for each in (outcome, base):
        if isinstance(each, str):
            return each
    return [one / other for one, other in zip(outcome, base, strict=True)]


def interleaved(
    subjects: Mapping[Label, Callable[[], float]], rounds: int, step: Callable[[], None] = lambda: None
) -> dict[Label, Outcome]:
    """Ask each subject for one number per round.

    Each round begins with another subject, so that none is always measured after the same noise. A subject that
    raises is asked no more, and its outcome says what it raised.
    """
    samples: dict[Label, Samples] = {label: [] for label in subjects}
    failures: dict[Label, str] = {}
    labels = list(subjects)
    for start in range(rounds):
        for label in labels[start % len(labels) :] + labels[: start % len(labels)]:
            if label not in failures:
                try:
                    samples[label].append(subjects[label]())
                except Exception as error:
                    failures[label] = f"failed: {type(error).__name__}: {error}"
            step()
    return {**samples, **failures}


class SecondsPerCall:
    """A subject: how long one call of an operation takes, on average over a block of about ``block`` seconds.

    Without a block it is one call at a time, for operations that take long.
    """

    def __init__(self, operation: Callable[[], object], block: float = 0.0) -> None:
        self._operation = operation
        self._block = block
        self._times = 0

    def __call__(self) -> float:
        if not self._times:
            self._times = self._calibrate()
        return self._time(self._times) / self._times

    def _calibrate(self) -> int:
        self._operation()  # The first call opens files and fills caches.
        if not self._block:
            return 1
        times = 1
        while (taken := self._time(times)) < self._block / 4:
            times *= 2
        return max(1, round(times * self._block / taken))

    def _time(self, times: int) -> float:
        operation = self._operation
        started = perf_counter()
        for _ in repeat(None, times):
            operation()
        return perf_counter() - started
