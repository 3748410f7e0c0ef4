"""Measuring on a machine that is noisy and shared: by comparison within one run, never by a number alone.

What is compared is measured alternately, a short block each, so that a slow minute of the machine is slow for all. A
ratio is taken within each round, and the median of the rounds' ratios is what counts.
"""

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import repeat
from time import perf_counter
from timeit import timeit
from typing import NamedTuple, TypeVar

Label = TypeVar("Label", bound=Hashable)

Samples = list[float]  # one number from each round
Outcome = Samples | str  # the samples, or why there are none


class Spread(NamedTuple):
    """The median of some samples, and the quartiles around it."""

    median: float
    low: float
    high: float


Summary = Spread | str  # the spread of the samples, or why there are none


def spread(samples: Sequence[float]) -> Spread:
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def summary(outcome: Outcome, scale: float = 1.0) -> Summary:
    """The spread, with the four digits that it is good for at most."""
    return outcome if isinstance(outcome, str) else Spread(*(float(f"{each / scale:.4g}") for each in spread(outcome)))


def ratios(outcome: Outcome, base: Outcome) -> Outcome:
    """Round by round, how many times the base. A failure of either is the ratio's."""
    for each in (outcome, base):
        if isinstance(each, str):
            return each
    return [one / other for one, other in zip(outcome, base, strict=True)]


def ratio(outcomes: Mapping[Label, Outcome], label: Label, base: Label) -> Summary:
    """How many times the base one of the outcomes is."""
    return summary(ratios(*(outcomes.get(each, f"not measured: {each}") for each in (label, base))))


def interleaved(
    subjects: Mapping[Label, Callable[[], float]], rounds: int, step: Callable[[], object] = lambda: None
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
            self._operation()  # The first call opens files and fills caches.
            self._times = 1
            while self._block and (taken := self._time()) < self._block / 2:
                self._times = max(self._times + 1, round(self._times * self._block / max(taken, self._block / 10)))
        return self._time() / self._times

    def _time(self) -> float:
        return timeit(self._operation, "import gc; gc.enable()", number=self._times)


def per_second(operation: Callable[[], object], seconds: float) -> float:
    """How often an operation can be called in a second."""
    done, started, taken = 0, perf_counter(), 0.0
    while taken < seconds:
        for _ in repeat(None, 8):
            operation()
        done += 8
        taken = perf_counter() - started
    return done / taken
