"""The results as text: on the terminal, and in docs/benchmarks.md with its plots."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

import apsw

from .bounds import BOUNDS, verdict
from .charts import draw
from .measure import Summary
from .results import Result, Table, figure

INTRODUCTION = """\
# Benchmarks

Written by `python -m benchmarks`; what it needs is installed with `pip install -e '.[bench]'`. `--quick` takes a minute
or two and writes nothing, `--only NAME` measures one section again and keeps the others as they are in this document.

The numbers depend on the machine, which is described with each section. What is compared is measured alternately in one
run, so that a slow second is slow for all: compare numbers of one table, never of two. A cell gives the median of the
rounds and, in brackets, their quartiles. The same numbers are beside the plots, as JSON.

## Must reach
"""

PACKAGES = "cachelib diskcache flask flask-session gunicorn numpy pandas psycopg pyarrow redis sqlitedict werkzeug"


def machine() -> dict[str, str]:
    """The machine as far as it explains the numbers; nothing that names it."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = sorted(
        {f"{each.name} {each.version}" for each in distributions() if each.name.lower() in PACKAGES.split()}
    )
    languages = [f"Python {platform.python_version()}", f"SQLite {apsw.sqlite_lib_version()}"]
    return {
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), {gigabytes:.0f} GB, {platform.system()}",
        "versions": ", ".join(languages + packages),
    }


def cell(outcome: Summary, form: Callable[[float], str] = figure) -> str:
    """The median and, behind it, the quartiles; or why there are none."""
    if isinstance(outcome, str):
        return outcome.replace("|", "\\|")
    median, low, high = map(form, outcome)
    return median if low == high else f"{median} ({low}–{high})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as plain text, and is Markdown."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in [rows[0], rule, *rows[1:]]
    )


def as_text(table: Table) -> str:
    heading = [f"{table.title} ({table.unit})", *table.columns]
    return aligned([heading, *([name, *map(cell, cells)] for name, cells in table.rows.items())])


def verdicts(results: Iterable[Result]) -> str:
    bounded = {key: measured for result in results for key, measured in result.bounded.items()}
    rows = [["Must reach", "limit", "measured", ""]]
    for bound in BOUNDS:
        measured = bounded.get(bound.key, "not measured")
        form = "{:.2f}".format if bound.limit < 5 else "{:.0f}".format
        limit = f"{'at least' if bound.at_least else 'at most'} {form(bound.limit)}"
        rows.append(
            [bound.text, limit, "" if isinstance(measured, str) else cell(measured, form), verdict(bound, measured)]
        )
    return aligned(rows)


def missing(result: Result) -> Iterator[str]:
    return (f"- not run: {name}: {reason}" for name, reason in sorted(result.missing.items()))


def on_terminal(result: Result) -> str:
    return "\n\n".join([f"\n{result.title}", *map(as_text, result.tables), "\n".join(missing(result))])


def save(result: Result, docs: Path) -> None:
    folder = docs / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    result.save(folder)


def render(names: Iterable[str], docs: Path) -> None:
    """Draw benchmarks.md and its plots from the results that are kept beside them."""
    folder = docs / "benchmarks"
    results = [Result.load(path) for name in names if (path := folder / f"{name}.json").exists()]
    for picture in folder.glob("*.svg"):
        picture.unlink()
    parts = [INTRODUCTION, verdicts(results) + "\n"]
    for result in results:
        parts += [f"## {result.title}\n", result.about + "\n"]
        for number, table in enumerate(result.tables, 1):
            name = f"{result.name}-{number}.svg"
            (folder / name).write_text(draw(table))
            parts += [f"![{table.title}](benchmarks/{name})\n", as_text(table) + "\n"]
        origin = (f"- {what}: {text}" for what, text in result.machine.items())
        parts += [f"Made by `{result.command}`:\n", "\n".join([*origin, *missing(result)]) + "\n"]
    (docs / "benchmarks.md").write_text("\n".join(parts))
