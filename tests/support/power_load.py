"""What is being stored when the power goes: steps on a visitor's store and a user's, real ones or a model of them.

Run as a script it takes the steps on real stores, and says after each that it is acknowledged.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import sqlite_file
from flask import Flask

from flask_dash_store import UserStoreMiddleware

STEPS = 90
SMALL, LARGE = 15_000, 150_000
KEYS = "abcd"

Step = tuple[str, str, dict[str, Any]]
State = tuple[dict[str, bytes], dict[str, bytes], tuple[int, bool]]
"""What the visitor's store holds, and the user's; how many sessions have ended, and whether the present one's id was
replaced."""


def install(folder: Path, **options: Any) -> UserStoreMiddleware:
    app = Flask("load", instance_path=str(folder))
    app.secret_key = "k" * 32
    return UserStoreMiddleware(app, url="sqlite:///store.sqlite", **options)


def steps(seed: int) -> list[Step]:
    """The name of each step, whose store it is about, and what it stores."""
    chance = random.Random(seed)
    names = ["set"] * 8 + ["update", "block"] * 3 + ["delete"] * 3 + ["clear", "regenerate", "destroy"]
    chosen = chance.choices([*names, "checkpoint", "purge", "reopen"], k=STEPS)
    return [(name, chance.choice(["visitor", "user"]), _values(chance, number)) for number, name in enumerate(chosen)]


def _values(chance: random.Random, number: int) -> dict[str, bytes]:
    """Values that tell by each byte which step has stored them, some of them large."""
    stamp = b"%06d " % number
    sizes = [LARGE if chance.random() < 0.4 else chance.randrange(SMALL) for _ in range(3)]
    return {key: stamp * (size // len(stamp)) for key, size in zip(chance.sample(KEYS, 3), sizes, strict=True)}


class Real:
    """The stores of this package."""

    def __init__(self, folder: Path, synchronous: str) -> None:
        self._database = folder / "store.sqlite"
        self._options = {"folder": folder, "synchronous": synchronous}
        self._sessions = (f"{number:020}".ljust(64, "s") for number in range(STEPS))
        self._session = next(self._sessions)
        self._open()

    def _open(self) -> None:
        self._middleware = install(**self._options)
        self.user = self._middleware.for_user("ann")
        self.visitor = self._middleware.open(self._session)

    def reopen(self) -> None:
        self._session = self.visitor.session_id
        self._middleware.opened().storage.close()
        self._open()

    def regenerate(self) -> None:
        self.visitor.regenerate()

    def destroy(self) -> None:
        self.visitor.destroy()
        self._session = next(self._sessions)
        self.visitor = self._middleware.open(self._session)

    def purge(self) -> None:
        self._middleware.purge()

    def checkpoint(self) -> None:
        sqlite_file.execute(self._database, "PRAGMA wal_checkpoint")

    def block(self, store: Any) -> AbstractContextManager[Any]:
        return store.transaction()


class Model:
    """What those would hold if nothing ever went wrong."""

    def __init__(self) -> None:
        self.user: dict[str, bytes] = {}
        self.visitor: dict[str, bytes] = {}
        self.ended = 0
        self.is_renewed = False

    def regenerate(self) -> None:
        self.is_renewed = True

    def destroy(self) -> None:
        self.ended += 1
        self.is_renewed = False
        self.visitor = {}

    def state(self) -> State:
        return dict(self.visitor), dict(self.user), (self.ended, self.is_renewed)

    def reopen(self) -> None:
        pass

    purge = checkpoint = reopen

    def block(self, store: Any) -> AbstractContextManager[Any]:
        return nullcontext()


def take(step: Step, stores: Real | Model) -> None:
    name, whose, values = step
    store: Any = getattr(stores, whose)
    first, *others = values
    if name == "set":
        store[first] = values[first]
    elif name == "delete":
        store.pop(first, None)
    elif name == "update":
        store.update(values)
    elif name == "clear":
        store.clear()
    elif name == "block":
        with stores.block(store):
            store.pop(first, None)
            for key in others:
                store[key] = values[key]
    else:
        getattr(stores, name)()


def states(seed: int) -> Iterator[State]:
    """What is stored at first, and after each step."""
    model = Model()
    yield model.state()
    for step in steps(seed):
        take(step, model)
        yield model.state()


def main(folder: str, synchronous: str, seed: str) -> None:
    stores = Real(Path(folder), synchronous)
    for step in steps(int(seed)):
        take(step, stores)
        os.write(sys.stdout.fileno(), b"acknowledged\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
