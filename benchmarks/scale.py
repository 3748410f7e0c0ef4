"""Scale

The same operations with more and more sessions in the store, each with a small value. Get and set go to sessions
picked at random from all of them, so that a large store is not measured on its warmest pages; all files are read once
before, so that it is not measured on this machine's disk either.
"""

import subprocess
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from random import Random

from .bench import Bench
from .measure import SecondsPerCall, ratio
from .peers import OURS, PEERS, RAW
from .results import Findings, Table
from .small_values import VALUE

FEWEST, MOST = 100, 1_000_000
PICKED = 5000


def measure(bench: Bench) -> Findings:
    sizes = bench.choose((FEWEST, 1000, 10_000), (FEWEST, 1000, 10_000, 100_000, MOST))
    compared = [name for name in (OURS, RAW, "diskcache") if bench.opened({name: PEERS[name]})]
    block = bench.choose(0.005, 0.05)
    subjects = {}
    for name, size in bench.progress("filling", [(name, size) for name in compared for size in sizes]):
        folder = bench.inside(f"{name} {size}")
        values = PEERS[name](folder)
        for number in range(size):
            values(f"user-{number}")["key"] = VALUE
        picked = cycle([values(f"user-{number}") for number in Random(size).choices(range(size), k=PICKED)])
        for operation, call in {
            "get": lambda picked=picked: next(picked)["key"],
            "set": lambda picked=picked: next(picked).__setitem__("key", VALUE),
        }.items():
            subjects[name, (operation, size)] = _after_reading(folder, SecondsPerCall(call, block))
    outcomes = bench.interleaved(subjects, bench.choose(5, 9))

    tables = []
    for operation in ("get", "set"):
        columns = {(operation, size): f"{size:,}" for size in sizes}
        tables.append(Table.of(f"{operation.capitalize()}, by number of sessions", "µs", columns, outcomes))
    keys = {f"scale_{each}": ((OURS, (each, MOST)), (OURS, (each, FEWEST))) for each in ("get", "set")}
    return tables, {key: ratio(outcomes, most, fewest) for key, (most, fewest) in keys.items()}


def _after_reading(folder: Path, subject: Callable[[], float]) -> Callable[[], float]:
    """A subject whose files the system has in memory, where it may have given that back since the last round."""

    def warmed() -> float:
        # In a process of its own, for to close a file drops all locks that this one has on it.
        subprocess.run(["cat", *filter(Path.is_file, folder.rglob("*"))], stdout=subprocess.DEVNULL, check=True)
        return subject()

    return warmed
