"""A clock that the tests move by hand."""

from __future__ import annotations


class HandClock:
    """Seconds since the epoch, as many as the test says."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += seconds
