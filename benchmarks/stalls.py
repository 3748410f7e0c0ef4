"""What one visitor costs another

On SQLite one process writes at a time. While a process does one large thing for one visitor, another process writes a
small value for another visitor, again and again: the longest of these writes, and how many times the median of those
that it makes while nothing else happens. The frame holds 360 MB of floats; many keys are 10,000, as many as a visitor
may have, of a few bytes or of 100 KB each (a tenth of all that with `--quick`).
"""

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from flask_dash_store import StorageBusy

from .bench import Bench
from .crew import Crew
from .measure import Outcome, Samples, summary
from .peers import install, session_id, sqlite_url
from .results import Findings, Table
from .small_values import VALUE


class Visitor:
    """One visitor of a store, in a process of its own, who does what is large."""

    def __init__(self, folder: Path, scale: float) -> None:
        self._stores = install(sqlite_url(folder))
        self._frame = np.zeros(int(45_000_000 * scale))
        self._keys = int(10_000 * scale)
        self._visits = 0

    def prepare(self, what: str) -> None:
        """Store what the next call is about, for a visitor who comes for the first time."""
        self._visits += 1
        self._store = self._stores.open(session_id(f"visitor {self._visits}"))
        self._store["first"] = VALUE
        if what == "frame":
            self._store["frame"] = self._frame
        elif what != "nothing":
            value = b"v" if what == "small" else np.random.default_rng(1).bytes(100_000)
            for start in range(0, self._keys - 1, 500):
                self._store.update({f"key {n}": value for n in range(start, min(start + 500, self._keys - 1))})
        self._stores.purge()

    def act(self, call: str) -> None:
        CALLS[call](self)

    def purge(self) -> None:
        self._stores.purge()

    # What is large

    def update_frame(self) -> None:
        self._store.update(frame=self._frame, more=1)

    def pop(self) -> None:
        self._store.pop("frame")

    def update_many(self) -> None:
        self._store.update({f"key {n}": b"v" for n in range(self._keys - 1)})

    def edit(self) -> None:
        with self._store.edit("frame") as frame:
            frame[0] = 1

    def store_method(self, name: str) -> None:
        getattr(self._store, name)()


CALLS: dict[str, Callable[[Visitor], None]] = {
    "update of a frame": Visitor.update_frame,
    "pop of a frame": Visitor.pop,
    **{
        f"{method} of many {what} keys": partial(Visitor.store_method, name=method)
        for what in ("small", "large")
        for method in ("clear", "regenerate", "destroy")
    },
    "removing them after that": Visitor.purge,
    "update of many small keys at once": Visitor.update_many,
    "edit of a frame": Visitor.edit,
}
NEEDS = {"update of a frame": "nothing", "update of many small keys at once": "nothing"}
# Two whose transaction has to write all of it, and one that is no visitor's and waits for the disk in its checkpoints:
# docs/performance.md, "Goals that were not reached".
UNBOUNDED = ("update of many small keys at once", "edit of a frame", "removing them after that")


class Waits:
    """How long each write of another visitor takes, until something else is over."""

    def __init__(self, folder: Path) -> None:
        self._stores = install(sqlite_url(folder))
        self._store = self._stores.open(session_id("another visitor"))
        self._storage = self._stores.opened().storage

    def until(self, over: threading.Event) -> Samples:
        waits = []
        while not over.is_set():
            started = time.perf_counter()
            self._store["key"] = time.time()
            waits.append(time.perf_counter() - started)
            if self._storage.needs_maintenance:
                with suppress(StorageBusy):  # As after a response.
                    self._storage.maintain(time.time(), 0.0)
            time.sleep(0.0005)
        return waits

    def during(self, work: Callable[[], object]) -> Samples:
        over = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            waits = thread.submit(self.until, over)
            try:
                work()
            finally:
                over.set()
        return waits.result()


def needs(call: str) -> str:
    """What has to be stored before a call."""
    return NEEDS.get(call, "frame" if "frame" in call else "large" if "large" in call else "small")


def measure(bench: Bench) -> Findings:
    scale = bench.choose(0.1, 1.0)
    waits: dict[str, Samples] = {call: [] for call in CALLS}
    alone: Samples = []
    with Crew(1, Visitor, bench.folder, scale) as crew:
        other = Waits(bench.folder)
        for call in bench.progress("measuring", list(CALLS) * bench.choose(1, 3)):
            if call == "removing them after that":
                crew.call("prepare", "large")
                crew.call("act", "clear of many large keys")
            else:
                crew.call("prepare", needs(call))
            alone.append(statistics.median(other.during(lambda: time.sleep(0.5))))
            waits[call].append(max(other.during(partial(crew.call, "act", call))))
    median = statistics.median(alone)
    longest = Table("The longest write of another visitor", "ms", ["longest", "times the median without"])
    for call, samples in waits.items():
        longest.add(call, samples, [wait / median * 1e-3 for wait in samples])
    outcomes: dict[str, Outcome] = {call: samples for call, samples in waits.items() if call not in UNBOUNDED}
    worst = [max(each) * 1e3 for each in zip(*outcomes.values(), strict=True)]
    return [longest], {"stalls": summary(worst)}
