"""What a measurement found, as it is kept in docs/benchmarks/<name>.json: the samples themselves, not their summary."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

from .measure import Outcome


@dataclass
class Table:
    """Samples by row (who) and column (under which conditions).

    :param chart: ``"bars"`` compares the rows; ``"lines"`` follows each row along the columns, which are numbers
    """

    title: str
    unit: str
    columns: list[str]
    rows: dict[str, list[Outcome]] = field(default_factory=dict)
    chart: Literal["bars", "lines"] | None = "bars"

    def add(self, row: str, outcome: Outcome, scale: float = 1.0) -> None:
        """The next cell of a row. The numbers are kept to the four digits that they are good for at most."""
        if not isinstance(outcome, str):
            outcome = [float(f"{sample * scale:.4g}") for sample in outcome]
        self.rows.setdefault(row, []).append(outcome)


@dataclass
class Result:
    """One measurement's tables, the ratios it gives for what must be reached, and what could not run, and why."""

    name: str
    title: str
    about: str
    tables: list[Table] = field(default_factory=list)
    ratios: dict[str, Outcome] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    command: str = ""
    machine: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        (folder / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        content = json.loads(path.read_text())
        return cls(**content | {"tables": [Table(**table) for table in content["tables"]]})
