"""The connections of one process to one server, and how a call waits for what others have.

redis-py's own pools fail at once when there is no connection left. When a signal's handler raises in the wrong
instruction, they count a connection that is lost for ever. Here a connection counts for as long as it exists, and
Python closes one that nothing refers to any more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from secrets import SystemRandom
from typing import Any
from weakref import WeakSet

from ...buffers import Buffers
from ...errors import StorageBusy, StorageError
from ..timeouts import longest_wait
from .url import Client, exceptions

_SHORTEST, _LONGEST = 0.0005, 0.01

# Each piece has the time of an answer to go out: what is large may take longer than that.
_PIECE = 2**20
_SMALL = 2**14

_random = SystemRandom()  # After a fork, another generator would give both processes the same numbers.


class NotSent(Exception):
    """No connection could be opened, so the server has surely done nothing.

    :ivar error: why, as redis-py says it
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Pool:
    """Connections that any thread may take.

    :param client: redis-py's client of the server, of which only the way to make a connection is used
    :param name: what error messages call the server
    :param max_connections: how many there are at most; more callers wait for one
    :param timeout: seconds to wait
    """

    def __init__(self, client: Client, name: str, max_connections: int, timeout: float) -> None:
        self._client = client
        self._name = name
        self._max_connections = max_connections
        self._timeout = timeout
        self._idle: deque[Any] = deque()
        self._existing: WeakSet[Any] = WeakSet()
        self._guard = threading.Lock()
        self._is_closed = False

    def get_connection(self) -> Any:
        """A connection that is ready.

        :raises NotSent: when the server cannot be reached
        :raises StorageBusy: when no connection comes free within the timeout
        """
        backoff: Backoff | None = None
        while True:
            connection = self._idle_connection() or self._new_connection()
            if connection is not None:
                return connection
            backoff = backoff or Backoff(self._timeout, self._no_connection)
            backoff.wait()

    def _idle_connection(self) -> Any:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # Another thread was faster.
                return None
            if _is_ready(connection):
                return connection
            self._drop(connection)
        return None

    def _new_connection(self) -> Any:
        """None when there may be no more now."""
        pool = self._client.connection_pool
        with self._guard:
            if len(self._existing) >= self._max_connections:
                return None
            connection = pool.connection_class(**pool.connection_kwargs)  # It connects to nothing yet.
            self._existing.add(connection)
        try:
            connection.connect()
        except (exceptions.RedisError, OSError) as error:
            self._drop(connection)
            if _is_refused_for_now(error):
                return None
            raise NotSent(error) from error
        return connection

    def _drop(self, connection: Any) -> None:
        connection.disconnect()
        self._existing.discard(connection)

    def release(self, connection: Any) -> None:
        """Give a connection back that has answered all that it was asked."""
        self._idle.append(connection)
        if self._is_closed:
            self.clear()

    def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together, and return their answers; see :func:`exchange`."""
        return exchange(self, self._client, commands)

    def clear(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            try:
                self._drop(self._idle.pop())
            except IndexError:
                return

    def close(self) -> None:
        """Close the connections that are idle. Those in use are closed when they are given back."""
        self._is_closed = True
        self.clear()

    def _no_connection(self) -> StorageBusy:
        return StorageBusy(
            f"No connection to the storage {self._name} came free within the {self._timeout:g} seconds that "
            f"USER_STORE_TIMEOUT (timeout=) lets a call wait. A process has at most {self._max_connections} "
            "(?max_connections= in the URL), and all together the server's maxclients.",
            limit=self._timeout,
        )


class Backoff:
    """The pauses between the tries of one call: at random, so that those who met once do not meet again.

    :param timeout: seconds from now until the deadline
    :param error: makes the error for a deadline that has passed
    """

    def __init__(self, timeout: float, error: Callable[[], StorageError]) -> None:
        self._deadline = time.monotonic() + longest_wait(timeout)
        self._error = error
        self._longest = _SHORTEST

    def wait(self) -> None:
        """Pause before the next try.

        :raises StorageError: when the deadline has passed: the given one
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._error()
        time.sleep(min(left, self._longest * _random.uniform(0.5, 1)))
        self._longest = min(self._longest * 2, _LONGEST)


def exchange(pool: Any, client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send commands to one server together, and return its answers.

    redis-py's own way keeps a connection that was interrupted, and its answer would be taken for another command's.

    :param pool: a :class:`Pool`, or one of redis-py's
    :raises ResponseError: redis-py's, the first of those that the server has answered
    """
    connection = pool.get_connection()
    answers: list[Any] = []
    try:
        connection.send_packed_command(_packed(commands))
        for command in commands:
            try:
                answers.append(client.parse_response(connection, command[0]))
            except exceptions.ResponseError as error:
                answers.append(error)
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _packed(commands: Sequence[tuple[Any, ...]]) -> Iterator[bytes | memoryview]:
    """Commands as pieces of what is sent. An argument is text, bytes, a number, or :class:`Buffers`.

    redis-py packs them with hiredis, whose ``pack_command`` ends the process with SIGSEGV when a signal's handler
    raises in it (3.5.0; Celery's soft time limit does), and which cannot send several buffers as one argument.
    https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    small: list[bytes | memoryview] = []
    for chunk in _chunks(commands):
        if len(chunk) <= _SMALL:
            small.append(chunk)
            continue
        yield b"".join(small)
        small.clear()
        view = memoryview(chunk)
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]
    yield b"".join(small)


def _chunks(commands: Iterable[tuple[Any, ...]]) -> Iterator[bytes | memoryview]:
    for command in commands:
        yield b"*%d\r\n" % len(command)
        for argument in command:
            if isinstance(argument, Buffers):
                yield b"$%d\r\n" % argument.nbytes
                yield from argument.chunks()
                yield b"\r\n"
            else:
                data = argument if isinstance(argument, bytes) else str(argument).encode()
                if len(data) <= _SMALL:
                    yield b"$%d\r\n%b\r\n" % (len(data), data)
                else:
                    yield b"$%d\r\n" % len(data)
                    yield data
                    yield b"\r\n"


def _is_ready(connection: Any) -> bool:
    """Whether the server has neither closed a connection nor left an answer in it that was not read."""
    try:
        if connection.is_connected:
            return not connection.can_read()
    except (exceptions.RedisError, OSError):
        pass
    return False


def _is_refused_for_now(error: Exception) -> bool:
    """Whether the server has as many clients as it takes. It may close the connection before that can be read."""
    return "max number of clients" in str(error) or isinstance(
        error.__cause__ or error.__context__, (ConnectionResetError, BrokenPipeError)
    )
