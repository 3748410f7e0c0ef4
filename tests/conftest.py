"""What the tests share: a clock that they move by hand."""

from __future__ import annotations

import pytest


class HandClock:
    """Seconds since the epoch, as many as the test says."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()
