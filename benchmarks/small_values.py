"""Small values

`store[key]` and `store[key] = value` of a dict of three entries, by one thread. A new key is one of a hundred users';
another size is one of four, up to a kilobyte; those of the same size are two in turn, for SQLite writes no page that
stays as it was. Then 1 and 8 threads of one process that read, each for a user of its own: Python runs one thread at a
time, so more threads can win only the time in which a store releases its lock.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, cycle

from .bench import Bench
from .measure import SecondsPerCall, per_second, ratio
from .peers import OURS, PEERS, RAW, ValuesOf
from .results import Findings, Table

VALUE = {"name": "visitor", "count": 42, "path": [1, 2, 3]}
SAME = [{**VALUE, "count": count} for count in (42, 43)]
SIZES = [{**VALUE, "text": "x" * length} for length in (0, 900, 300, 600)]
OPERATIONS = {"get": "get", "new": "set, new key", "same": "set, same size", "other": "set, other size"}
USERS = 100
THREADS = (1, 8)


def operations(values: ValuesOf) -> dict[str, Callable[[], object]]:
    users = [values(f"user-{number}") for number in range(USERS)]
    for each in users:
        each["key"] = VALUE
    store, numbers, same, sizes = users[0], count(), cycle(SAME), cycle(SIZES)

    def set_new() -> None:
        number = next(numbers)
        users[number % USERS][f"key-{number}"] = VALUE

    return {
        "get": partial(store.__getitem__, "key"),
        "new": set_new,
        "same": lambda: store.__setitem__("key", next(same)),
        "other": lambda: store.__setitem__("other", next(sizes)),
    }


def reads_per_second(values: ValuesOf, threads: int, seconds: float) -> float:
    """Of all threads together."""
    gets = [partial(values(f"user-{number}").__getitem__, "key") for number in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(per_second, gets, [seconds] * threads))


def measure(bench: Bench) -> Findings:
    block, peers = bench.choose(0.01, 0.05), bench.opened(PEERS)
    calls = {(name, key): call for name, values in peers.items() for key, call in operations(values).items()}
    alone = bench.interleaved(
        {label: SecondsPerCall(call, block) for label, call in calls.items()}, bench.choose(7, 41)
    )
    crowds = {
        (name, threads): partial(reads_per_second, peers[name], threads, block * 5)
        for name in peers
        for threads in THREADS
    }
    together = bench.interleaved(crowds, bench.choose(3, 21))

    times = Table.of("One thread", "µs", OPERATIONS, alone)
    rates = Table.of("Reads", "per second", {threads: f"{threads} threads" for threads in THREADS}, together)
    bounded = {key: ratio(alone, (OURS, key), (RAW, key)) for key in OPERATIONS}
    bounded |= {f"{key}_sqlitedict": ratio(alone, (OURS, key), ("sqlitedict", key)) for key in ("get", "same")}
    bounded["threads"] = ratio(together, (OURS, 8), (OURS, 1))
    return [times, rates], bounded
