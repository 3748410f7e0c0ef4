"""The results as text: on the terminal, and in docs/benchmarks.md with its plots. Both are drawn from the samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .charts import draw
from .figures import cell
from .requirements import judge
from .results import Result, Table

INTRODUCTION = """\
# Benchmarks

Written by `python -m benchmarks`; what it needs is installed with `pip install -e '.[bench]'`. `--quick` takes under a
minute and writes nothing, `--only NAME` measures one part again and keeps the others as they are in this document,
`--list` names the parts.

The numbers depend on the machine, which is described with each part. What is compared is measured in turns in one run,
so that a slow access is slow for all: compare numbers of one table, never of two. A cell gives the median of the
rounds and, in brackets, their quartiles. The samples themselves are beside the plots, as JSON.
"""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as plain text, and is Markdown."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in [rows[0], rule, *rows[1:]]
    )


def tables(result: Result) -> Iterable[tuple[Table, str]]:
    for table in result.tables:
        heading = [f"{table.title} ({table.unit})", *table.columns]
        rows = [[name, *map(cell, outcomes)] for name, outcomes in table.rows.items()]
        yield table, aligned([heading, *rows])


def missing(result: Result) -> str:
    return "\n".join(f"- not run: {name}: {reason}" for name, reason in sorted(result.missing.items()))


def verdicts(results: Iterable[Result]) -> str:
    ratios = {key: outcome for result in results for key, outcome in result.ratios.items()}
    rows = [["Must reach", "limit", "measured", ""]]
    for verdict in judge(ratios):
        measured = ""
        if verdict.ratio is not None:
            median, low, high = (f"{number:.2f}" for number in verdict.ratio)
            measured = f"{median} ({low}–{high})"
        rows.append([verdict.requirement.text, verdict.requirement.bound, measured, verdict.text])
    return aligned(rows)


def on_terminal(result: Result) -> str:
    parts = [f"\n{result.title}", *(text for _, text in tables(result))]
    if result.missing:
        parts.append(missing(result))
    return "\n\n".join(parts)


def save(result: Result, docs: Path) -> None:
    """Keep the samples, for this document and for those to come."""
    folder = docs / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    result.save(folder)


def render(names: Iterable[str], docs: Path) -> None:
    """Draw benchmarks.md and its plots from the samples that lie beside them."""
    folder = docs / "benchmarks"
    results = [Result.load(path) for name in names if (path := folder / f"{name}.json").exists()]
    for picture in folder.glob("*.svg"):
        picture.unlink()
    parts = [INTRODUCTION, "## Must reach\n", verdicts(results) + "\n"]
    for result in results:
        parts += [f"## {result.title}\n", result.about + "\n"]
        for number, (table, text) in enumerate(tables(result), 1):
            if table.chart:
                name = f"{result.name}-{number}.svg"
                (folder / name).write_text(draw(table))
                parts.append(f"![{table.title}](benchmarks/{name})\n")
            parts.append(text + "\n")
        if result.missing:
            parts.append(missing(result) + "\n")
        parts.append(_origin(result))
    (docs / "benchmarks.md").write_text("\n".join(parts))


def _origin(result: Result) -> str:
    lines = [f"- {what}: {text}" for what, text in result.machine.items()]
    return "\n".join([f"Made by `{result.command}`:\n", *lines]) + "\n"
