"""Get and set of a small value, by one thread and by many, in one process and in four."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter

from .bench import Bench, Place
from .crew import Crew
from .measure import Outcome, SecondsPerCall, interleaved, ratios
from .peers import PEERS, FlaskDashStore, Peer, RawApsw, StockSqlitedict
from .results import Result, Table

TITLE = "Small values"
ABOUT = """\
`store[key]` and `store[key] = value` of a dict of three entries. First one thread alone, in microseconds per
operation; then threads and processes at once, each for a user of its own, in operations per second of all together.
Python runs one thread at a time, so on any store more threads can win only what it waits for."""

VALUE = {"name": "visitor", "count": 42, "path": [1, 2, 3]}
PROCESSES = 4
CROWDS = ((1, 1), (1, 4), (1, 8), (4, 1))
JOIN_WITHIN = 20.0

_PEERS = {peer.name: peer for peer in PEERS}


class Hammer:
    """Lives in a process of its own and drives the peers there."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._open: dict[str, Peer] = {}
        self._alone: dict[tuple[str, str], SecondsPerCall] = {}

    def seconds(self, name: str, operation: str, block: float) -> float:
        """Seconds per operation of one thread."""
        if (name, operation) not in self._alone:
            self._alone[name, operation] = SecondsPerCall(self._operation(name, operation, 0), block)
        return self._alone[name, operation]()

    def rate(self, name: str, operation: str, threads: int, block: float) -> float:
        """Operations per second of some threads together."""
        operations = [self._operation(name, operation, number) for number in range(threads)]
        runners = [_Runner(each, block) for each in operations]
        for runner in runners:
            runner.start()
        for runner in runners:
            runner.join(JOIN_WITHIN)
        if any(runner.is_alive() for runner in runners):
            raise TimeoutError(f"a call did not return within {JOIN_WITHIN:g} seconds")
        for runner in runners:
            if runner.error:
                raise runner.error
        return sum(runner.done / runner.seconds for runner in runners)

    def _operation(self, name: str, operation: str, thread: int) -> Callable[[], object]:
        if name not in self._open:
            self._open[name] = _PEERS[name](self._place)
        values = self._open[name].values(f"user-{os.getpid()}-{thread}")
        values["key"] = VALUE
        return partial(values.__getitem__, "key") if operation == "get" else partial(values.__setitem__, "key", VALUE)


class _Runner(threading.Thread):
    def __init__(self, operation: Callable[[], object], block: float) -> None:
        super().__init__(daemon=True)
        self._operation = operation
        self._block = block
        self.done = 0
        self.seconds = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        started = perf_counter()
        try:
            while self.seconds < self._block:
                for _ in range(8):
                    self._operation()
                self.done += 8
                self.seconds = perf_counter() - started
        except Exception as error:
            self.error = error


def measure(bench: Bench) -> Result:
    result = Result("small_values", TITLE, ABOUT)
    names = [peer.name for peer in bench.runnable(PEERS)]
    alone_rounds, crowd_rounds = bench.choose(7, 41), bench.choose(1, 9)
    subjects = [(name, operation) for name in names for operation in ("get", "set")]
    bench.expect(len(subjects) * (alone_rounds + len(CROWDS) * crowd_rounds))
    with Crew(PROCESSES, Hammer, bench.place.inside("small")) as crew:
        alone = interleaved(
            {
                (name, operation): _alone(crew, name, operation, bench.choose(0.01, 0.05))
                for name, operation in subjects
            },
            alone_rounds,
            bench.step,
        )
        crowds = interleaved(
            {
                (name, operation, crowd): _together(crew, name, operation, crowd, bench.choose(0.05, 0.25))
                for name, operation in subjects
                for crowd in CROWDS
            },
            crowd_rounds,
            bench.step,
        )
    result.tables = [_alone_table(names, alone), *(_crowd_table(names, crowds, what) for what in ("get", "set"))]
    ours, raw, stock = FlaskDashStore.name, RawApsw.name, StockSqlitedict.name
    for operation in ("get", "set"):
        mine = alone[ours, operation]
        result.ratios[f"{operation}_raw"] = ratios(mine, alone.get((raw, operation), bench.absence(raw)))
        result.ratios[f"{operation}_sqlitedict"] = ratios(mine, alone.get((stock, operation), bench.absence(stock)))
    result.ratios["threads"] = ratios(crowds[ours, "get", (1, 8)], crowds[ours, "get", (1, 1)])
    return result


def _alone(crew: Crew, name: str, operation: str, block: float) -> Callable[[], float]:
    return lambda: float(crew.call("seconds", name, operation, block, members=1)[0])


def _together(crew: Crew, name: str, operation: str, crowd: tuple[int, int], block: float) -> Callable[[], float]:
    processes, threads = crowd
    return lambda: float(sum(crew.call("rate", name, operation, threads, block, members=processes)))


def _alone_table(names: list[str], alone: dict[tuple[str, str], Outcome]) -> Table:
    table = Table("One thread", "µs per operation", ["get", "set"])
    for name in names:
        for operation in table.columns:
            table.add(name, alone[name, operation], 1e6)
    return table


def _crowd_table(names: list[str], crowds: dict[tuple[str, str, tuple[int, int]], Outcome], operation: str) -> Table:
    columns = [f"{processes} × {threads}" for processes, threads in CROWDS]
    table = Table(f"Processes × threads: {operation}", "operations per second", columns)
    for name in names:
        for crowd in CROWDS:
            table.add(name, crowds[name, operation, crowd])
    return table
