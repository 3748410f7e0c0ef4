"""What the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from clocks import HandClock
from urls import URLS

# Begun first: with --dist loadfile, one that is begun last keeps a single core busy at the end.
LONG_FILES = (
    "test_examples.py",
    "test_parallel_callbacks.py",
    "test_windows.py",
    "test_double_clicks.py",
    "test_postgresql_faults.py",
    "test_isolation.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def connections() -> Iterator[list[apsw.Connection]]:
    """Every connection to SQLite that is opened from here on, in this process."""
    opened: list[apsw.Connection] = []
    apsw.connection_hooks.append(opened.append)
    yield opened
    apsw.connection_hooks.remove(opened.append)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The verbs of the statements that SQLite is given, in their order."""
    run: list[str] = []

    def listen(connection: apsw.Connection) -> None:
        def note(_: Any, sql: str, __: Any) -> bool:
            run.append(sql.split()[0])
            return True

        connection.exec_trace = note

    apsw.connection_hooks.append(listen)
    yield run
    apsw.connection_hooks.remove(listen)


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A USER_STORE_URL of the test's own, on each backend."""
    return URLS[request.param](tmp_path)
