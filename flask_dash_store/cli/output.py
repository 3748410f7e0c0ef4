"""The output of commands: text, JSON, and progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from ..storage.base import Progress, no_progress

json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def say_json(answer: object) -> None:
    """Print an answer as JSON. Times are seconds since the epoch, or null for never."""
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def table(rows: list[list[str]]) -> Iterator[str]:
    """The lines of a table. Columns are as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def count(number: int, what: str) -> str:
    """A number of things: "1 key", "2,000 keys"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(nbytes: float) -> str:
    """Bytes, with three digits that matter."""
    power = 0
    while nbytes >= 999.5 and power < len(_UNITS) - 1:
        nbytes, power = nbytes / 1000, power + 1
    return f"{nbytes:,.0f} {_UNITS[power]}" if nbytes >= 100 else f"{nbytes:.3g} {_UNITS[power]}"


def time(seconds: float | None) -> str:
    """A time in UTC; "never" for None."""
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def finite(seconds: float | None) -> float | None:
    """A time for JSON, which has no infinity: None for never."""
    return None if seconds is None or seconds == float("inf") else seconds


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A block with a progress bar, if there is a terminal. Gives the function that updates it."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    bar: Any
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield show
