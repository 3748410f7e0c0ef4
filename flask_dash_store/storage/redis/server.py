"""Calls to a Redis or Valkey server. Each ends within a bounded time, with an answer or the package's error.

redis-py retries nothing here, because it cannot know what is safe to repeat. A read is retried once if the connection
broke. So is a call that the server has refused because it has become a replica: a new connection finds the new master.
A write whose answer was lost is not retried. Whether it was done is not known, and the error says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from ...buffers import Buffers
from ...errors import StorageBusy, StorageClosed, StorageCorrupt, StorageError, StorageFull, UserStoreError
from ..timeouts import busy
from .lua import Script
from .pool import Backoff, NotSent, Pool, exchange
from .url import Client, MasterNotFoundError, Target, exceptions

T = TypeVar("T")

logger = logging.getLogger("flask_dash_store")

# The default of the server's proto-max-bulk-len, the maximum size of one argument.
MAX_BULK_BYTES = 512 * 2**20
SCAN_BATCH = 1000

# redis-py has exceptions for the server's errors, but not if the error of a script contains them.
_FAULTS: tuple[tuple[str, type[StorageError]], ...] = (
    ("OutOfMemoryError", StorageFull),
    ("OOM command not allowed", StorageFull),
    ("WRONGTYPE", StorageCorrupt),
    ("BusyLoadingError", StorageBusy),
    ("TryAgainError", StorageBusy),
    ("BUSY ", StorageBusy),
)
_REPLICA = ("ReadOnlyError", "READONLY", "previous master is now a slave")
# Errors, and causes of connection errors, after which the server has certainly done nothing.
_REFUSED = (
    exceptions.AuthenticationError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    MasterNotFoundError,
    ConnectionRefusedError,
    FileNotFoundError,
)


class _AnswerLost(StorageError):
    """The answer to a write was lost, so it is not known whether it was done."""


class Server:
    """A server, or a cluster of them, for any thread of any process.

    :param target: the server of the URL
    :param timeout: seconds to wait for a connection
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self.name = target.name
        self.is_cluster = target.is_cluster
        self.max_bulk_bytes = MAX_BULK_BYTES
        self._target = target
        self._timeout = timeout
        self._is_closed = False
        # By process, because a child must not use its parent's pool: another thread may have held its locks at the
        # fork.
        self._links: dict[int, Pool | Client] = {}

    def _link(self) -> Any:
        """The pool of this process; for a cluster, redis-py's client."""
        if self._is_closed:
            raise StorageClosed(f"The storage {self.name} has been closed.")
        process = os.getpid()
        return self._links.get(process) or self._links.setdefault(process, self._connect())

    def _connect(self) -> Pool | Client:
        client = self._target.connect()
        return client if self.is_cluster else Pool(client, self.name, self._target.max_connections, self._timeout)

    # Commands and scripts

    def execute(self, *command: Any, repeatable: bool = False) -> Any:
        """Send a command and return its answer.

        :param repeatable: whether it is safe to repeat
        """
        return self.execute_each([command], repeatable)[0]

    def execute_each(self, commands: Sequence[tuple[Any, ...]], repeatable: bool = True) -> list[Any]:
        """Send commands together, and return the answers. On a cluster, they may be done one by one."""
        return self._guarded(partial(self._exchange, commands), repeatable)

    def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        link = self._link()
        if not self.is_cluster:
            return link.exchange(commands)  # type: ignore[no-any-return]
        commands = [tuple(map(_in_one_piece, command)) for command in commands]
        if len(commands) == 1:
            return [link.execute_command(*commands[0])]
        pipeline = link.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute()  # type: ignore[no-any-return]

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        repeatable: bool = False,
        before: Sequence[tuple[Any, ...]] = (),
    ) -> list[Any]:
        """Run a script by its hash, and return its answer. A restarted server is sent the whole script.

        :param before: commands that are sent before the script
        """
        rest = (len(keys), *keys, *args)
        try:
            return self.execute_each([*before, ("EVALSHA", script.sha, *rest)], repeatable)[-1]  # type: ignore[no-any-return]
        except exceptions.NoScriptError:  # The commands before it have been done.
            return self.execute("EVAL", script.text, *rest, repeatable=repeatable)  # type: ignore[no-any-return]

    def _guarded(self, call: Callable[[], T], repeatable: bool) -> T:
        """Make a call, retry it at most once, and translate errors of redis-py.

        Waiting for a connection does not count as an attempt, because nothing has been sent.
        """
        was_repeated = False
        backoff: Backoff | None = None
        while True:
            try:
                return call()
            except (exceptions.NoScriptError, StorageError):
                raise
            except NotSent as error:
                raise self._fault(error.error, is_in_doubt=False) from error.error
            except exceptions.MaxConnectionsError:  # of a cluster's client
                backoff = backoff or Backoff(self._timeout, self.busy)
                backoff.wait()
            except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
                if was_repeated or not self._may_repeat(error, repeatable):
                    raise self._fault(error, is_in_doubt=not repeatable and _is_lost(error)) from error
                was_repeated = True

    def _may_repeat(self, error: Exception, repeatable: bool) -> bool:
        if any(said in _text(error) for said in _REPLICA) and not self.is_cluster:
            self._link().clear()
            return True
        is_broken = isinstance(error, exceptions.ConnectionError)
        return repeatable and is_broken and not isinstance(error, exceptions.AuthenticationError)

    # All servers

    def scan(self, pattern: str) -> Iterator[list[str]]:
        """The keys that match on all masters, about a thousand at a time. Some may be given several times."""
        for ask in self._masters():
            cursor = 0
            while True:
                cursor, keys = ask("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_BATCH)
                if keys:
                    yield [key.decode() for key in keys]
                if cursor == 0:
                    break

    def _masters(self) -> list[Callable[..., Any]]:
        """For each master, a function that sends it a command that only reads."""
        if not self.is_cluster:
            return [partial(self.execute, repeatable=True)]

        def primaries() -> list[Client]:
            cluster = self._link()
            return [cluster.get_redis_connection(node) for node in cluster.get_primaries()]

        def ask(node: Client, *command: Any) -> Any:
            return self._guarded(lambda: exchange(node.connection_pool, node, [command]), repeatable=True)[0]

        return [partial(ask, node) for node in self._guarded(primaries, repeatable=True)]

    def check(self) -> None:
        """Ask the server for its limits, and warn if it may evict what users have stored.

        It is not an error if the server cannot be reached now: it may come back, and until then each call raises one.

        :raises StorageError: if the server refuses the credentials
        """
        try:
            for ask in self._masters():
                ask("PING")
                self._check(ask)
        except StorageError as error:
            if isinstance(error.__cause__, exceptions.AuthenticationError):
                raise
            logger.warning("The storage cannot be used now, and is tried again with each call: %s", error)

    def _check(self, ask: Callable[..., Any]) -> None:
        with suppress(StorageError):  # Hosted servers often forbid this.
            self.max_bulk_bytes = int(ask("CONFIG", "GET", "proto-max-bulk-len")[1])
        try:
            memory = ask("INFO", "memory")
        except StorageError as error:
            if not isinstance(error.__cause__, exceptions.NoPermissionError):
                raise
            logger.warning(
                "This user of the server %s is not allowed INFO (ACL: +info), so it is not known whether the server "
                "evicts what users have stored when its memory is full. Its maxmemory-policy must be noeviction.",
                self.name,
            )
            return
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            logger.warning(
                "The server %s evicts data when its memory is full (maxmemory-policy %s), so users may lose what they "
                "have stored. Set maxmemory-policy to noeviction.",
                self.name,
                policy,
            )

    def memory(self) -> list[dict[str, int]]:
        """The memory section of INFO of each server.

        :raises StorageError: if a server cannot be reached, or forbids it (ACL: +info)
        """
        return [ask("INFO", "memory") for ask in self._masters()]

    def close(self) -> None:
        """Close the connections of this process. Those in use are closed when their calls end."""
        self._is_closed = True
        link = self._links.pop(os.getpid(), None)
        if link is not None:
            link.close()

    # Errors

    def _fault(self, error: Exception, is_in_doubt: bool) -> StorageError:
        """The package's exception for an error of redis-py."""
        text = _text(error)
        kind = next((kind for said, kind in _FAULTS if said in text), StorageError)
        if isinstance(error, exceptions.TimeoutError):
            text = "the server did not answer in time"
        if is_in_doubt:
            return _AnswerLost(
                f"The storage {self.name} failed: {text.rstrip('.')}. It is not known whether the write was done."
            )
        return kind(f"The storage {self.name} failed: {text.rstrip('.')}.")

    def busy(self) -> StorageBusy:
        """The error for a lock, or a connection, that others held for longer than a call may wait."""
        return busy(f"storage {self.name}", self._timeout)


def is_timeout(error: BaseException) -> bool:
    """Whether this is the package's error for a server that did not answer."""
    return isinstance(error.__cause__, exceptions.TimeoutError)


def is_in_doubt(error: BaseException) -> bool:
    """Whether a write that raised this may have been done: its answer was lost, or the call was interrupted."""
    return not isinstance(error, UserStoreError) or isinstance(error, _AnswerLost)


def _is_lost(error: Exception) -> bool:
    if not isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError, OSError)):
        return False
    return not isinstance(error, _REFUSED) and not isinstance(error.__context__, _REFUSED)


def _in_one_piece(argument: Any) -> Any:
    return argument.joined() if isinstance(argument, Buffers) else argument


def _text(error: Exception) -> str:
    text = str(error)
    if isinstance(error, MasterNotFoundError):
        text = text.partition(" : ")[0]  # The rest shows the sentinels' passwords before redis-py 8.
    return f"{type(error).__name__}: {text}"
