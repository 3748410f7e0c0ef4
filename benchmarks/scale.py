"""What an operation costs with 100 sessions in the store, and with up to a million."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from random import Random
from time import perf_counter

from .bench import Bench
from .measure import Outcome, SecondsPerCall, interleaved, ratios
from .peers import CanPurge, DashDatabaseWay, Diskcache, FlaskDashStore, Peer, RawApsw, Redis, Values
from .results import Result, Table
from .small_values import VALUE

TITLE = "Scale"
ABOUT = """\
The same operations with more and more sessions in the store, each with a small value. Get and set go to sessions
picked at random from all of them, so that a large store is not measured on its warmest pages; all files are read once
before, so that it is not measured on this machine's disk either, which costs 50 µs a page. Listing goes to users with
eight keys. Purging removes sessions that have expired beside all those that have not, per session removed;
dash_database, raw SQLite and stock sqlitedict know no expiry, and Redis expires by itself."""

COMPARED: tuple[type[Peer], ...] = (FlaskDashStore, RawApsw, DashDatabaseWay, Diskcache, Redis)
FEWEST, MOST = 100, 1_000_000
SAMPLE = 5000
KEYS = 8
OPERATIONS = {
    "get": "Get, by number of sessions",
    "set": "Set, by number of sessions",
    "list": "List a user's keys, by number of sessions",
    "purge": "Purge one expired session, by number of those that have not expired",
}

Key = tuple[str, str, int]


def measure(bench: Bench) -> Result:
    result = Result("scale", TITLE, ABOUT)
    sizes = bench.choose((100, 1000, 10_000), (FEWEST, 1000, 10_000, 100_000, MOST))
    rounds = bench.choose(5, 9)
    compared = bench.runnable(COMPARED)
    purging = [peer for peer in compared if issubclass(peer, CanPurge)]
    bench.expect(len(sizes) * (len(compared) * (1 + 3 * rounds) + len(purging) * rounds))
    subjects: dict[Key, Callable[[], float]] = {}
    opened = []
    for size in sizes:
        place = bench.place.inside(f"scale{size}")
        for kind in compared:
            peer = kind(place)
            opened.append(peer)
            for operation, subject in _subjects(bench, peer, size).items():
                subjects[peer.name, operation, size] = _after_reading(place.folder, subject)
            bench.step()
    outcomes = interleaved(subjects, rounds, bench.step)
    for peer in opened:
        peer.close()

    for operation, title in OPERATIONS.items():
        table = Table(title, "µs", [f"{size:,}" for size in sizes], chart="lines")
        for peer in purging if operation == "purge" else compared:
            for size in sizes:
                table.add(peer.name, outcomes[peer.name, operation, size], 1e6)
        result.tables.append(table)
    for operation in ("get", "set"):
        result.ratios[f"scale_{operation}"] = _growth(outcomes, operation, sizes[-1])
    return result


def _after_reading(folder: Path, subject: Callable[[], float]) -> Callable[[], float]:
    """A subject whose files the system has in memory, where it may have given that back since the last round."""

    def warmed() -> float:
        # In a process of its own, for to close a file drops all locks that this one has on it.
        subprocess.run(["cat", *filter(Path.is_file, folder.rglob("*"))], stdout=subprocess.DEVNULL, check=True)
        return subject()

    return warmed


def _growth(outcomes: dict[Key, Outcome], operation: str, most: int) -> Outcome:
    if most < MOST:
        return f"not measured: --quick stops at {most:,} sessions"
    ours = FlaskDashStore.name
    return ratios(outcomes[ours, operation, MOST], outcomes[ours, operation, FEWEST])


def _subjects(bench: Bench, peer: Peer, size: int) -> dict[str, Callable[[], float]]:
    peer.fill((f"user-{number}" for number in range(size)), "key", VALUE)
    picked = _picked(peer, [f"user-{number}" for number in Random(size).choices(range(size), k=SAMPLE)])
    listers = _picked(peer, [f"user-{number}" for number in Random(size).sample(range(size), 20)])
    for _ in range(20):
        lister = next(listers)
        for number in range(KEYS - 1):
            lister[f"key-{number}"] = VALUE

    def store() -> None:
        next(picked)["key"] = VALUE

    block = bench.choose(0.005, 0.05)
    subjects: dict[str, Callable[[], float]] = {
        "get": SecondsPerCall(lambda: next(picked)["key"], block),
        "set": SecondsPerCall(store, block),
        "list": SecondsPerCall(lambda: list(next(listers)), block),
    }
    if isinstance(peer, CanPurge):
        subjects["purge"] = _purge(peer, bench.choose(200, 2000))
    return subjects


def _picked(peer: Peer, users: list[str]) -> Iterator[Values]:
    return cycle([peer.values(user) for user in users])


def _purge(peer: CanPurge, count: int) -> Callable[[], float]:
    def subject() -> float:
        peer.fill_expired((f"expired-{number}" for number in range(count)), "key", VALUE)
        started = perf_counter()
        removed = peer.purge()
        taken = perf_counter() - started
        if removed != count:
            raise RuntimeError(f"{removed} of {count} expired sessions were purged")
        return taken / count

    return subject
