"""The storages that tests/test_storage_contract.py holds to the contract, and how a test acts in another process.

A new backend joins with one factory: it opens a storage whose values belong to ``folder`` alone, so that two calls
with the same folder reach the same values if the backend is shared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flask_dash_store.storage import Storage
from flask_dash_store.storage.sqlite import SqliteStorage

Factory = Callable[..., Storage]

BACKENDS: dict[str, Factory] = {}
SHARED: dict[str, Factory] = {}


def backend(shared: bool) -> Callable[[Factory], Factory]:
    """Let a factory take part; ``shared`` says whether other processes reach its values."""

    def register(factory: Factory) -> Factory:
        BACKENDS[factory.__name__] = factory
        if shared:
            SHARED[factory.__name__] = factory
        return factory

    return register


@backend(shared=True)
def sqlite_file(folder: Path, **limits: Any) -> Storage:
    return SqliteStorage(folder / "values.sqlite", **limits)


@backend(shared=False)
def sqlite_in_memory(folder: Path, **limits: Any) -> Storage:
    return SqliteStorage(":memory:", **limits)


@backend(shared=False)
def sqlite_temporary(folder: Path, **limits: Any) -> Storage:
    return SqliteStorage(None, **limits)


class Child:
    """A function that runs in another process, which is killed when it takes too long.

    :param method: ``"spawn"`` for a process of its own, ``"fork"`` for a fork of this one
    """

    def __init__(self, method: str, function: Callable[..., Any], *args: Any) -> None:
        context = get_context(method)
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_report, args=(sender, function, args), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which is the point here
            self._process.start()
        sender.close()

    def outcome(self, timeout: float = 60) -> Any:
        """What the function returned, or the exception that it raised."""
        try:
            if not self._receiver.poll(timeout):
                raise TimeoutError(f"The other process gave no answer within {timeout:g} seconds.")
            return self._receiver.recv()
        finally:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._receiver.close()


def _report(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        sender.send(function(*args))
    except Exception as error:
        sender.send(error)
