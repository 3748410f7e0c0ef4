"""Text columns

A DataFrame of 430,000 rows and three columns of text in one key: a month, one of five products, and a name of which
there are 90,000. Without pyarrow pandas keeps text as Python objects, each of which is pickled and made again. With it,
a column is two buffers. As a category, it is a number for each row. "Get and filter" counts the rows of one product.
"""

from functools import partial
from typing import Any

from .bench import Bench
from .measure import SecondsPerCall
from .peers import OURS, PEERS
from .results import Findings, Table

ROWS = 430_000
KINDS = {"Python objects": "object", "pandas' text in pyarrow": "string[pyarrow]", "categories": "category"}
OPERATIONS = ("set", "get", "get and filter")


def measure(bench: Bench) -> Findings:
    frame = _frame(bench.choose(ROWS // 10, ROWS))
    store = PEERS[OURS](bench.folder)("user")
    subjects = {}
    sizes = Table("Stored", "MB", ["bytes"])
    for name, kind in KINDS.items():
        value, before = frame.astype(kind), store.nbytes
        store[name] = value
        sizes.add(name, [store.nbytes - before])
        subjects[name, "set"] = SecondsPerCall(partial(store.__setitem__, name, value))
        subjects[name, "get"] = SecondsPerCall(partial(store.__getitem__, name))
        subjects[name, "get and filter"] = SecondsPerCall(partial(_get_and_filter, store, name))
    times = bench.interleaved(subjects, bench.choose(3, 15))
    return [Table.of("Three columns of text", "ms", {each: each for each in OPERATIONS}, times), sizes], {}


def _frame(rows: int) -> Any:
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(1)
    words = {
        "month": [f"{2024 + month // 12}-{month % 12 + 1:02}" for month in range(24)],
        "product": ["Espresso machine", "Coffee grinder", "Milk frother", "Tea kettle", "Filter set"],
        "customer": [f"Customer {10_000 + number}" for number in range(90_000)],
    }
    return pd.DataFrame({name: random.choice(np.array(each, dtype=object), rows) for name, each in words.items()})


def _get_and_filter(store: Any, name: str) -> int:
    return int((store[name]["product"] == "Tea kettle").sum())
