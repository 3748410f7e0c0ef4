"""What a measurement found, as it is kept in docs/benchmarks/<name>.json: medians and quartiles."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from .measure import Outcome, Spread, Summary, summary

UNITS = {"µs": 1e-6, "ms": 1e-3, "MB": 1e6}


@dataclass
class Table:
    """Numbers by row (what is compared) and column (under which conditions)."""

    title: str
    unit: str
    columns: list[str]
    rows: dict[str, list[Summary]] = field(default_factory=dict)

    def add(self, row: str, *outcomes: Outcome) -> None:
        """The next cells of a row, of seconds and bytes whatever the table's unit is."""
        self.rows.setdefault(row, []).extend(summary(outcome, UNITS.get(self.unit, 1.0)) for outcome in outcomes)

    @classmethod
    def of(cls, title: str, unit: str, columns: Mapping[Any, str], outcomes: Mapping[tuple[str, Any], Outcome]) -> Self:
        """A table of those outcomes whose label is a row and the key of a column."""
        table = cls(title, unit, list(columns.values()))
        for (row, column), outcome in outcomes.items():
            if column in columns:
                table.add(row, outcome)
        return table


# What a measurement returns: its tables, and the numbers that have bounds, by the bound's key.
Findings = tuple[list[Table], dict[str, Summary]]


@dataclass
class Result:
    """One measurement's tables, the numbers that have bounds, and what could not run, and why."""

    name: str
    title: str
    about: str
    tables: list[Table] = field(default_factory=list)
    bounded: dict[str, Summary] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    command: str = ""
    machine: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        for a_list in (r"\[\n[^\[\]{}]*\n *\]", r"\[\n[^{}]*?\n *\]"):  # A row of a table is one line.
            text = re.sub(a_list, lambda found: re.sub(r"\n *", "", found[0]), text)
        (folder / f"{self.name}.json").write_text(text + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        content = json.loads(path.read_text())
        content["bounded"] = {key: _summary(each) for key, each in content["bounded"].items()}
        for table in content["tables"]:
            table["rows"] = {name: [_summary(cell) for cell in cells] for name, cells in table["rows"].items()}
        return cls(**content | {"tables": [Table(**table) for table in content["tables"]]})


def _summary(cell: Any) -> Summary:
    return cell if isinstance(cell, str) else Spread(*cell)


def figure(number: float) -> str:
    """A number as people read it: three digits."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
