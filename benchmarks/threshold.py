"""From which size on a value is better kept in a file than in a row: `python -m benchmarks.threshold`."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from flask_dash_store import DashDatabase, codec

KILOBYTES = (16, 32, 64, 128, 256, 512, 1024)
ROUNDS = 60
ROW, FILE = 2**40, 1  # thresholds that put every value into a row, or into a file


def microseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


def measure(database: DashDatabase, kilobytes: int, threshold: int) -> tuple[float, float]:
    """The medians of set and get."""
    value = os.urandom(kilobytes * 1024)
    sets, gets = [], []
    with patch.object(codec, "BODY_THRESHOLD", threshold):
        for _ in range(ROUNDS):
            sets.append(microseconds(lambda: database.store_user_value("user", "key", value)))
            gets.append(microseconds(lambda: database.get_user_value("user", "key")))
    return statistics.median(sets), statistics.median(gets)


def main() -> None:
    print("| value | set, row | get, row | set, file | get, file |\n| --- | --- | --- | --- | --- |")
    with (
        tempfile.TemporaryDirectory() as folder,
        DashDatabase(Path(folder) / "values.sqlite", secret_key="key") as database,
    ):
        for kilobytes in KILOBYTES:
            times = [*measure(database, kilobytes, ROW), *measure(database, kilobytes, FILE)]
            print(f"| {kilobytes} KiB | " + " | ".join(f"{each:.0f} µs" for each in times) + " |")


if __name__ == "__main__":
    main()
