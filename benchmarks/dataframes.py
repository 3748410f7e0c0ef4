"""A DataFrame of 1 to 200 MB: set, get, get and sum a column, and the memory of four workers that hold it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bench import Bench, Place
from .crew import Crew
from .measure import Outcome, SecondsPerCall, interleaved, ratios
from .peers import PEERS, Diskcache, FlaskDashStore, Peer, PickleFile, RawApsw, Redis, Serverside, StockSqlitedict
from .results import Result, Table

if TYPE_CHECKING:
    import pandas as pd

TITLE = "DataFrames"
ABOUT = """\
A DataFrame in one key: eight columns of floats, or of short strings in pandas' own string type. "Get and sum" adds up
one column (for strings: their lengths), so it pays for what a mapped file puts off. Memory is the proportional set
size (PSS) of four worker processes together, at its highest while each gets the DataFrame, reads all of it and holds
it, less what they had before; pages that they share count once. What a Redis server itself holds is not in it. The
files are in the page cache."""

COMPARED: tuple[type[Peer], ...] = (
    FlaskDashStore, PickleFile, RawApsw, StockSqlitedict, Diskcache, Serverside, Redis,
)  # fmt: skip
IN_QUICK: tuple[type[Peer], ...] = (FlaskDashStore, PickleFile, Diskcache, Redis)
HELD_IN_QUICK: tuple[type[Peer], ...] = (FlaskDashStore, PickleFile)
COLUMNS = 8
WORKERS = 4
REQUIRED_MB = 50
OPERATIONS = {"set": "set", "get": "get", "sum": "get and sum a column"}

Key = tuple[str, str, int]

_PEERS = {peer.name: peer for peer in PEERS}


def frame(kind: str, megabytes: int) -> pd.DataFrame:
    """A DataFrame that takes about so many million bytes."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(megabytes)
    if kind == "numbers":
        rows = megabytes * 1_000_000 // (8 * COLUMNS)
        return pd.DataFrame({f"c{number}": random.standard_normal(rows) for number in range(COLUMNS)})
    words = pd.Series([f"word {number} of a text" for number in range(100_000)], dtype="str")
    each = int(words.memory_usage(index=False)) / len(words)
    rows = int(megabytes * 1_000_000 / each / COLUMNS)
    picks = {f"c{number}": words.take(random.integers(0, len(words), rows)) for number in range(COLUMNS)}
    return pd.DataFrame({name: column.reset_index(drop=True) for name, column in picks.items()})


def total(column: pd.Series) -> float:
    return float(column.sum() if column.dtype == "float64" else column.str.len().sum())


def measure(bench: Bench) -> Result:
    result = Result("dataframes", TITLE, ABOUT)
    kinds = {"numbers": bench.choose((50,), (1, 10, 50, 200)), "strings": bench.choose((10,), (1, 10, 50, 200))}
    for module, needed in (("pandas", ["numbers", "strings"]), ("pyarrow", ["strings"])):
        if find_spec(module) is None:
            for kind in needed:
                kinds.pop(kind, None)
                bench.leave_out(f"DataFrames of {kind}", f"the Python module {module} is not installed")
    compared = bench.runnable(bench.choose(IN_QUICK, COMPARED))
    place = bench.place.inside("dataframes")
    rounds = {size: bench.choose(3, full) for size, full in ((1, 21), (10, 11), (50, 9), (200, 5))}
    holding = [peer for peer in compared if not bench.is_quick or peer in HELD_IN_QUICK]
    sizes = [(kind, size) for kind in kinds for size in kinds[kind]]
    held = [(kind, size) for kind, size in sizes if not bench.is_quick or (kind, size) == ("numbers", REQUIRED_MB)]
    bench.expect(sum(len(compared) * len(OPERATIONS) * rounds[size] for _, size in sizes) + len(holding) * len(held))

    peers = [peer(place) for peer in compared]
    times: dict[tuple[Key, str], Outcome] = {}
    for kind, size in sizes:
        times |= interleaved(_subjects(peers, kind, size), rounds[size], bench.step)
    for peer in peers:
        peer.close()
    memory = {key: outcome for peer in holding for key, outcome in _hold(bench, place, peer.name, held).items()}
    if bench.is_quick:
        bench.leave_out("the other peers, other sizes, and most of the memory", "left out by --quick")

    for kind in kinds:
        for operation, title in OPERATIONS.items():
            table = Table(f"{kind.capitalize()}: {title}", "ms", [f"{size} MB" for size in kinds[kind]])
            for peer in compared:
                for size in kinds[kind]:
                    table.add(peer.name, times[(peer.name, kind, size), operation], 1e3)
            result.tables.append(table)
        columns = [size for each, size in held if each == kind]
        if columns:
            table = Table(f"{kind.capitalize()}: memory of four workers", "MB", [f"{size} MB" for size in columns])
            for peer in holding:
                for size in columns:
                    table.add(peer.name, memory[peer.name, kind, size], 1e-6)
            result.tables.append(table)
    for operation in ("get", "set"):
        result.ratios[f"dataframe_{operation}"] = ratios(
            *(
                times.get(((name, "numbers", REQUIRED_MB), operation), bench.absence("DataFrames of numbers"))
                for name in (FlaskDashStore.name, PickleFile.name)
            )
        )
    return result


def _subjects(peers: list[Peer], kind: str, size: int) -> dict[tuple[Key, str], Callable[[], float]]:
    value = frame(kind, size)
    block = 0.02 if size < 10 else 0.0
    subjects: dict[tuple[Key, str], Callable[[], float]] = {}
    for peer in peers:
        values = peer.values(kind)
        for operation, call in _operations(values, f"{size} MB", value).items():
            subjects[(peer.name, kind, size), operation] = SecondsPerCall(call, block)
    return subjects


def _operations(values: Any, key: str, value: pd.DataFrame) -> dict[str, Callable[[], object]]:
    def store() -> None:
        values[key] = value

    return {"set": store, "get": lambda: values[key], "sum": lambda: total(values[key]["c3"])}


# Memory


class Holder:
    """A worker that holds DataFrames as a web app would."""

    def __init__(self, place: Place, name: str) -> None:
        self._peer = _PEERS[name](place)
        self._held: Any = None
        frame("numbers", 1).sum()  # What pandas loads when it is first used is no part of the DataFrame.

    def drop(self) -> None:
        self._held = None

    def hold(self, kind: str, size: int) -> None:
        self._held = self._peer.values(kind)[f"{size} MB"]
        for name in self._held:
            total(self._held[name])


def _hold(bench: Bench, place: Place, name: str, held: list[tuple[str, int]]) -> dict[Key, Outcome]:
    found: dict[Key, Outcome] = {}
    with Crew(WORKERS, Holder, place, name) as crew:
        for kind, size in held:
            try:
                crew.call("drop")
                before = _memory(crew.pids)
                with _Peak(crew.pids) as peak:
                    crew.call("hold", kind, size)
                found[name, kind, size] = [float(max(peak.bytes, _memory(crew.pids), before) - before)]
            except Exception as error:
                found[name, kind, size] = f"failed: {type(error).__name__}: {error}"
            bench.step()
    return found


class _Peak:
    """The highest memory of some processes while the block runs."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.bytes = max(self.bytes, _memory(self._pids))

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _memory(pids: list[int]) -> int:
    """The proportional set size of some processes together, in bytes: what they share counts once."""
    return sum(_pss(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in pids)


def _pss(smaps_rollup: str) -> int:
    line = next(line for line in smaps_rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024
