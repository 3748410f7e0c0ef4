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

from flask_dash_store.buffers import ALIGNMENT, Buffers, Stored
from flask_dash_store.expiry import Access
from flask_dash_store.owner import USER_PREFIX, Owner
from flask_dash_store.storage import Storage, StorageOptions, open_storage
from flask_dash_store.storage.base import Limits

Factory = Callable[..., Storage]

BACKENDS: dict[str, Factory] = {}
SHARED: dict[str, Factory] = {}

KEEP_ENDED = 5000.0
TTL = 1000.0


def backend(shared: bool) -> Callable[[Factory], Factory]:
    """Hold what a factory opens to the contract; ``shared`` says whether other processes reach its values."""

    def register(factory: Factory) -> Factory:
        BACKENDS[factory.__name__] = factory
        if shared:
            SHARED[factory.__name__] = factory
        return factory

    return register


def open_url(url: str, *, timeout: float = 5.0, keep_ended: float = KEEP_ENDED, **limits: int) -> Any:
    """The storage that a URL names.

    :param limits: the fields of :class:`Limits`
    """
    return open_storage(url, StorageOptions(Path("/"), limits=Limits(**limits), timeout=timeout, keep_ended=keep_ended))


@backend(shared=False)
def memory(folder: Path, **options: Any) -> Storage:
    return open_url("memory://", **options)


@backend(shared=True)
def sqlite_file(folder: Path, **options: Any) -> Storage:
    return open_url(f"sqlite:///{folder}/values.sqlite", **options)


@backend(shared=False)
def sqlite_temporary(folder: Path, *, timeout: float = 5.0, **limits: int) -> Storage:
    from flask_dash_store.storage.sqlite import SqliteStorage

    return SqliteStorage(None, limits=Limits(**limits), timeout=timeout)


# Servers are imported and started when a test asks for them.


@backend(shared=True)
def redis(folder: Path, **options: Any) -> Storage:
    from servers_redis import shared_server

    return open_url(f"{shared_server()}?prefix={_name(folder)}:", **options)


@backend(shared=True)
def redis_cluster(folder: Path, **options: Any) -> Storage:
    from servers_redis import shared_cluster

    return open_url(f"{shared_cluster()}?prefix={_name(folder)}:", **options)


@backend(shared=True)
def postgresql(folder: Path, **options: Any) -> Storage:
    from servers_postgresql import shared_url

    return open_url(f"{shared_url()}&schema={_name(folder)}", **options)


def _name(folder: Path) -> str:
    return "tests_" + sha256(bytes(folder)).hexdigest()[:32]


def digest(text: str) -> bytes:
    """The SHA-256 of a text: a session, as a storage knows it, or a user."""
    return sha256(text.encode()).digest()


def owner(name: str, session_id: str = "") -> Owner:
    """An owner of this name, and its first session id or another; of a user id's values when the name is theirs."""
    return Owner(name, None if name.startswith(USER_PREFIX) else digest(session_id or name))


def small(payload: bytes) -> Stored:
    return payload, None


def large(payload: bytes) -> Stored:
    """A value with buffers, the first of which is the payload once more."""
    return payload, Buffers(token_hex(16), [memoryview(payload), memoryview(bytes(1000))])


def read(stored: Stored | None) -> bytes:
    """The payload of what :func:`small` or :func:`large` made, if it is whole."""
    assert stored is not None
    payload, buffers = stored
    if buffers is not None:
        (whole,) = buffers.views
        assert bytes(whole) == payload.ljust(-(-len(payload) // ALIGNMENT) * ALIGNMENT, b"\0") + bytes(1000)
    return payload


def items(storage: Storage, owner: Owner, access: Access) -> list[tuple[str, bytes]]:
    return [(key, read(stored)) for key, stored in storage.items(owner, access)]


def size_of(storage: Storage, items: dict[str, Stored], access: Access) -> int:
    """How many bytes an owner takes who has just stored these."""
    scratch = owner("s.scratch")
    storage.clear(scratch, access)
    for key, stored in items.items():
        storage.set(scratch, key, stored, access)
    nbytes = storage.stat(scratch, access).nbytes
    storage.clear(scratch, access)
    return nbytes


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
