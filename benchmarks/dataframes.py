"""DataFrames

A DataFrame in one key: eight columns of floats, or of short strings in pandas' own string type. "Get and sum" adds up
one column (for strings: their lengths), so it pays for what a mapped file puts off. Memory is the proportional set
size (PSS) of four worker processes together that have got the DataFrame, read all of it and hold it, less what they had
before; pages that they share count once. What a Redis server itself holds is not in it. The files are in the page
cache.
"""

from functools import partial
from pathlib import Path
from typing import Any

from .bench import Bench
from .crew import Crew
from .measure import SecondsPerCall, ratio
from .peers import OURS, PEERS, RAW
from .results import Findings, Table

COLUMNS = [f"c{number}" for number in range(8)]
WORKERS = 4
BOUNDED = "50 MB of numbers"
FILE = "pickle file"
COMPARED = (OURS, FILE, RAW, "diskcache", "Redis")


def frame(size: str) -> Any:
    """A DataFrame of ``"50 MB of numbers"``, or so many ``of strings``."""
    import numpy as np
    import pandas as pd

    random, megabytes = np.random.default_rng(1), int(size.split()[0])
    if size.endswith("numbers"):
        return pd.DataFrame({name: random.standard_normal(megabytes * 10**6 // 64) for name in COLUMNS})
    words = pd.Series([f"word {number} of a text" for number in range(100_000)], dtype="str")
    rows = int(megabytes * 10**6 / len(COLUMNS) / words.memory_usage(index=False) * len(words))
    return pd.DataFrame({name: words.sample(rows, replace=True, ignore_index=True) for name in COLUMNS})


def total(column: Any) -> float:
    return float(column.sum() if column.dtype == "float64" else column.str.len().sum())


def measure(bench: Bench) -> Findings:
    full = [f"{size} MB of {kind}" for kind in ("numbers", "strings") for size in (1, 10, 50, 200)]
    sizes = bench.choose([BOUNDED, "10 MB of strings"], full)
    peers = bench.opened({name: PEERS[name] for name in COMPARED})
    subjects = {}
    for size in sizes:
        value = frame(size)
        for name, values in peers.items():
            store = values("user")
            subjects[name, ("set", size)] = SecondsPerCall(partial(store.__setitem__, size, value))
            subjects[name, ("get", size)] = SecondsPerCall(partial(store.__getitem__, size))
            subjects[name, ("get and sum", size)] = SecondsPerCall(partial(_get_and_sum, store, size))
    times = bench.interleaved(subjects, bench.choose(3, 9))
    tables = [
        Table.of(operation.capitalize(), "ms", {(operation, size): size for size in sizes}, times)
        for operation in ("set", "get", "get and sum")
    ]
    keys = {f"dataframe_{each}": (each, BOUNDED) for each in ("get", "set")}
    bounded = {name: ratio(times, (OURS, key), (FILE, key)) for name, key in keys.items()}
    return [*tables, _memory(bench, list(peers), sizes)], bounded


def _get_and_sum(store: Any, size: str) -> float:
    return total(store[size]["c3"])


class Holder:
    """A worker that holds DataFrames as a web app would."""

    def __init__(self, name: str, folder: Path) -> None:
        self._store = PEERS[name](folder)("user")
        self._held = frame("1 MB of numbers")  # What pandas loads when it is first used is not the DataFrame's.

    def hold(self, size: str | None) -> None:
        self._held = None if size is None else self._store[size]
        for name in COLUMNS if size else ():
            total(self._held[name])


def _memory(bench: Bench, names: list[str], sizes: list[str]) -> Table:
    table = Table("Memory of four workers", "MB", sizes)
    for name in bench.progress("memory", names):
        with Crew(WORKERS, Holder, name, bench.inside(name)) as crew:
            for size in sizes:
                crew.call("hold", None)
                before = _pss(crew.pids)
                crew.call("hold", size)
                table.add(name, [max(_pss(crew.pids) - before, 0)])
    return table


def _pss(pids: list[int]) -> int:
    """The proportional set size of some processes together, in bytes: what they share counts once."""
    rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in pids)
    return sum(int(line.split()[1]) * 1024 for lines in rollups for line in lines if line.startswith("Pss:"))
