"""What the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from clocks import HandClock
from urls import URLS


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A USER_STORE_URL of the test's own, on each backend."""
    return URLS[request.param](tmp_path)
