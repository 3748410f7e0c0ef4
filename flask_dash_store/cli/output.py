"""The output of commands: text, JSON, and progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..storage.base import Progress, no_progress

json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


def say_json(answer: object) -> None:
    """Print an answer as JSON. Times are seconds since the epoch, or null for never."""
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def table(rows: list[list[str]]) -> Iterator[str]:
    """The lines of a table. Columns are as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


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
