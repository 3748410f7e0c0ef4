"""The storages that contract/test_storage_contract.py holds to the contract, what is stored there, and other processes.

A new backend joins with one factory: it opens a storage whose values belong to ``folder`` alone, so that two calls
with the same folder reach the same values if the backend is shared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from secrets import token_hex
from typing import Any

import servers_postgresql
from servers_redis import shared_cluster, shared_server

from flask_dash_store.buffers import ALIGNMENT, Buffers, Stored
from flask_dash_store.expiry import Access
from flask_dash_store.storage import Storage
from flask_dash_store.storage.postgresql import PostgresqlStorage
from flask_dash_store.storage.redis import RedisStorage
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


KEEP_ENDED = 5000.0
TTL = 1000.0


def open_redis(url: str, **options: Any) -> RedisStorage:
    generous = {"max_bytes": 2**30, "max_keys": 100_000, "timeout": 5.0, "keep_ended": KEEP_ENDED}
    return RedisStorage(url, **generous | options)


@backend(shared=True)
def redis(folder: Path, **limits: Any) -> Storage:
    return open_redis(shared_server(), prefix=_name(folder), **limits)


@backend(shared=True)
def redis_cluster(folder: Path, **limits: Any) -> Storage:
    return open_redis(shared_cluster(), prefix=_name(folder), **limits)


def _name(folder: Path) -> str:
    return f"{sha256(bytes(folder)).hexdigest()}:"


@backend(shared=True)
def postgresql(folder: Path, **limits: Any) -> Storage:
    schema = "tests_" + sha256(bytes(folder)).hexdigest()[:32]
    return PostgresqlStorage(f"{servers_postgresql.shared_url()}&schema={schema}", **limits)


def small(payload: bytes) -> Stored:
    return payload, None


def large(payload: bytes) -> Stored:
    """A value with a body, whose first part is the payload once more."""
    return payload, Buffers(token_hex(16), [memoryview(payload), memoryview(bytes(1000))])


def read(stored: Stored) -> bytes:
    """The payload of what :func:`small` or :func:`large` made, if it is whole."""
    payload, body = stored
    if body is not None:
        (whole,) = body.parts
        assert bytes(whole) == payload.ljust(-(-len(payload) // ALIGNMENT) * ALIGNMENT, b"\0") + bytes(1000)
    return payload


def items(storage: Storage, owner: str, access: Access) -> list[tuple[str, bytes]]:
    return [(key, read(stored)) for key, stored in storage.items(owner, access)]


def size_of(storage: Storage, items: dict[str, Stored], access: Access) -> int:
    """What an owner takes who has just stored these."""
    storage.clear("somebody", access)
    for key, stored in items.items():
        storage.set("somebody", key, stored, access)
    return storage.nbytes("somebody", access)


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
