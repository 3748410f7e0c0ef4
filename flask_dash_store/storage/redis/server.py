"""Calls of a Redis or Valkey server, each of which ends within a bounded time, with an answer or the package's error.

redis-py repeats nothing here, for it cannot know what may be done twice. What only reads is asked once more when the
connection broke, and so is what the server has refused because it has become a replica; then a new connection finds
the new master. A write whose answer was lost is not repeated: whether it was done is not known, and its caller is
told so.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from ...errors import StorageBusy, StorageClosed, StorageCorrupt, StorageError, StorageFull
from .lua import Script
from .url import Client, MasterNotFoundError, Target, exceptions

T = TypeVar("T")

logger = logging.getLogger("flask_dash_store")

MAX_CONNECTIONS = 64
# A server takes no longer text than its proto-max-bulk-len, which is this unless somebody has changed it.
MAX_PART_BYTES = 512 * 2**20
SCAN_BATCH = 1000
_PIECE = 2**20

# redis-py has exceptions for what the server says, but not where it is wrapped in the error of a script.
_FAULTS: tuple[tuple[str, type[StorageError]], ...] = (
    ("OutOfMemoryError", StorageFull),
    ("OOM command not allowed", StorageFull),
    ("WRONGTYPE", StorageCorrupt),
    ("BusyLoadingError", StorageBusy),
    ("TryAgainError", StorageBusy),
    ("BUSY ", StorageBusy),
)
_REPLICA = ("ReadOnlyError", "READONLY")
# Connection errors of redis-py, and the causes of some, after which the server has surely done nothing.
_REFUSED = (
    exceptions.AuthenticationError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    MasterNotFoundError,
    ConnectionRefusedError,
    FileNotFoundError,
)


class _Connections:
    """The connections of one process."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client = None
        self._guard = threading.Lock()
        self.slots = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def client(self) -> Client:
        if self._client is None:
            made = self._connect()  # It may take all of its time, so nobody waits for it.
            with self._guard:
                if self._client is None:
                    self._client = made
            if self._client is not made:
                made.close()
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


class Server:
    """A server, or a cluster of them, for any thread of any process.

    :param timeout: seconds to wait for one of the connections, of which a process has 64 at most
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self.name = target.name
        self.is_cluster = target.is_cluster
        self.max_part_bytes = MAX_PART_BYTES
        self._connect = target.connect
        self._timeout = timeout
        self._is_closed = False
        # A fork may have come while a thread held a lock of a client's, so a child never uses nor closes its parent's.
        self._connections: dict[int, _Connections] = {}

    def _here(self) -> _Connections:
        process = os.getpid()
        return self._connections.get(process) or self._connections.setdefault(process, _Connections(self._connect))

    @contextmanager
    def _client(self) -> Iterator[Client]:
        connections = self._here()
        if self._is_closed:
            raise StorageClosed(f"The storage {self.name} has been closed.")
        if not connections.slots.acquire(timeout=self._timeout):
            raise self.busy()
        try:
            yield connections.client()
        finally:
            connections.slots.release()

    def execute(self, *command: Any, repeatable: bool = False) -> Any:
        """Send a command and return its answer.

        :param repeatable: whether it does no harm when it is done twice
        """
        return self._guarded(partial(self._execute, command), repeatable)

    def _execute(self, command: tuple[Any, ...], client: Client) -> Any:
        return client.execute_command(*command) if self.is_cluster else _exchange_one(client, command)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], repeatable: bool = False) -> list[Any]:
        """Run a script and return its answer. The server knows it by its hash, unless it has been restarted."""
        rest = (len(keys), *keys, *args)
        try:
            return self.execute("EVALSHA", script.sha, *rest, repeatable=repeatable)  # type: ignore[no-any-return]
        except exceptions.NoScriptError:
            return self.execute("EVAL", script.text, *rest, repeatable=repeatable)  # type: ignore[no-any-return]

    def _guarded(self, call: Callable[[Client], T], repeatable: bool) -> T:
        was_repeated = False
        while True:
            try:
                with self._client() as client:
                    return call(client)
            except (exceptions.NoScriptError, StorageError):
                raise
            except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
                if was_repeated or not self._may_repeat(error, repeatable):
                    raise self._fault(error, is_in_doubt=not repeatable and _is_lost(error)) from error
                was_repeated = True

    def _may_repeat(self, error: Exception, repeatable: bool) -> bool:
        if any(said in _text(error) for said in _REPLICA) and not self.is_cluster:
            self._here().client().connection_pool.disconnect(inuse_connections=False)
            return True
        is_broken = isinstance(error, exceptions.ConnectionError)
        return repeatable and is_broken and not isinstance(error, exceptions.AuthenticationError)

    def scan(self, pattern: str) -> Iterator[list[str]]:
        """The keys that match, a thousand at a time, of all masters. Some may be given several times."""
        for node in self._guarded(_masters, repeatable=True):
            cursor = 0
            while True:
                command = ("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_BATCH)
                cursor, keys = self._guarded(partial(_execute_on, node, command), repeatable=True)
                if keys:
                    yield [key.decode() for key in keys]
                if cursor == 0:
                    break

    def execute_each(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to many commands that do no harm when they are done twice."""

        def execute(client: Client) -> list[Any]:
            if not self.is_cluster:
                return _exchange(client, commands)
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return pipeline.execute()  # type: ignore[no-any-return]

        return self._guarded(execute, repeatable=True)

    def check(self) -> None:
        """Learn what the server takes, and warn of one that may evict somebody's data.

        A server that cannot be reached now is no error: it may come, and until then each call says so.

        :raises StorageError: when it lets nobody in with these credentials
        """
        try:
            for node in self._guarded(_masters, repeatable=True):
                self._check(node)
        except StorageError as error:
            if isinstance(error.__cause__, (exceptions.AuthenticationError, exceptions.NoPermissionError)):
                raise
            logger.warning("Whether the storage can be used is not known yet: %s", error)

    def _check(self, node: Client) -> None:
        memory = self._guarded(partial(_execute_on, node, ("INFO", "memory")), repeatable=True)
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            logger.warning(
                "The server %s evicts data when its memory is full (maxmemory-policy %s), so that users lose what they "
                "have stored. Set maxmemory-policy to noeviction.",
                self.name,
                policy,
            )
        with suppress(StorageError):  # Whoever runs a server for others often forbids this.
            limit = self._guarded(partial(_execute_on, node, ("CONFIG GET", "proto-max-bulk-len")), repeatable=True)
            self.max_part_bytes = int(limit.get("proto-max-bulk-len", MAX_PART_BYTES))

    def close(self) -> None:
        self._is_closed = True
        self._here().close()

    def _fault(self, error: Exception, is_in_doubt: bool) -> StorageError:
        """The package's own exception for what redis-py said."""
        text = _text(error)
        kind = next((kind for said, kind in _FAULTS if said in text), StorageError)
        if isinstance(error, exceptions.TimeoutError):
            text = "It did not answer in time"
        doubt = " It is not known whether what it was told to write is stored." if is_in_doubt else ""
        return kind(f"The storage {self.name} failed: {text.rstrip('.')}.{doubt}")

    def busy(self) -> StorageBusy:
        return StorageBusy(
            f"The storage {self.name} was in use by others for longer than the {self._timeout:g} seconds that "
            "USER_STORE_TIMEOUT (timeout=) lets a call wait. Keep transaction() blocks short, or raise it."
        )


def is_timeout(error: BaseException) -> bool:
    """Whether this is the package's error for a server that gave no answer."""
    return isinstance(error.__cause__, exceptions.TimeoutError)


def is_in_doubt(error: BaseException) -> bool:
    """Whether a write that ended so may have been done: its answer was lost, or somebody did not wait for it."""
    return not isinstance(error, StorageError) or _is_lost(error.__cause__)


def _is_lost(error: BaseException | None) -> bool:
    if not isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError, OSError)):
        return False
    return not isinstance(error, _REFUSED) and not isinstance(error.__context__, _REFUSED)


def _text(error: Exception) -> str:
    text = str(error)
    if isinstance(error, MasterNotFoundError):
        text = text.partition(" : ")[0]  # The rest shows the sentinels' clients, passwords and all before redis-py 8.
    return f"{type(error).__name__}: {text}"


def _exchange(client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send commands to one server together, and return its answers.

    redis-py's own way keeps a connection that was interrupted, and its answer would be taken for another command's.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_packed_command(_pieces(connection.pack_commands(commands)))
        return [client.parse_response(connection, command[0]) for command in commands]
    except BaseException as error:
        if len(commands) > 1 or not isinstance(error, exceptions.ResponseError):
            connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _pieces(chunks: Iterable[Any]) -> Iterator[Any]:
    """What is sent, in pieces of which each has the time of an answer: what is large may take the longer."""
    for chunk in chunks:
        if len(chunk) <= _PIECE:
            yield chunk
        else:
            view = memoryview(chunk)
            yield from (view[start : start + _PIECE] for start in range(0, len(view), _PIECE))


def _exchange_one(client: Client, command: tuple[Any, ...]) -> Any:
    return _exchange(client, [command])[0]


def _execute_on(node: Client, command: tuple[Any, ...], _: Client) -> Any:
    return _exchange_one(node, command)


def _masters(client: Client) -> list[Client]:
    """A client of each server that has a part of the keys."""
    if not hasattr(client, "get_primaries"):
        return [client]
    return [client.get_redis_connection(node) for node in client.get_primaries()]
