"""The connections of one process to one server, and the backoff between the attempts of a call.

redis-py's own pools fail at once if no connection is free. And if a signal handler raises in the wrong instruction,
they count the lost connection forever. Here, a connection only counts while the object exists, and Python closes one to
which nothing refers.
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

_FIRST_DELAY, _MAX_DELAY = 0.0005, 0.01

# Large data are sent in pieces, because the socket's timeout applies to each send.
_PIECE = 2**20
_SMALL = 2**14

_random = SystemRandom()  # Other generators give the same numbers after a fork.


class NotSent(Exception):
    """No connection could be opened, so the server has done nothing.

    :ivar error: redis-py's error
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Pool:
    """Connections for any thread.

    :param client: redis-py's client of the server, which is only used to create connections
    :param name: the server's name in error messages
    :param max_connections: the maximum number of connections. Further callers wait.
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
        """A connection that is ready for commands.

        :raises NotSent: if the server cannot be reached
        :raises StorageBusy: if no connection is released within the timeout
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
        """A new connection; None if there are already as many as allowed."""
        pool = self._client.connection_pool
        with self._guard:
            if len(self._existing) >= self._max_connections:
                return None
            connection = pool.connection_class(**pool.connection_kwargs)  # Not connected yet.
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
        """Return a connection that has no answers pending."""
        self._idle.append(connection)
        if self._is_closed:
            self.clear()

    def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together, and return their answers; see :func:`exchange`."""
        return exchange(self, self._client, commands)

    def clear(self) -> None:
        """Close the idle connections."""
        while self._idle:
            try:
                self._drop(self._idle.pop())
            except IndexError:
                return

    def close(self) -> None:
        """Close the idle connections. Those in use are closed when they are released."""
        self._is_closed = True
        self.clear()

    def _no_connection(self) -> StorageBusy:
        return StorageBusy(
            f"No connection to the storage {self._name} was released within the {self._timeout:g} seconds that "
            f"USER_STORE_TIMEOUT (timeout=) lets a call wait. A process may have {self._max_connections} connections: "
            "raise ?max_connections= in USER_STORE_URL (url=), or the server's maxclients.",
            limit=self._timeout,
        )


class Backoff:
    """Exponential backoff with jitter between the attempts of one call.

    :param timeout: seconds from now until the deadline
    :param error: makes the error after the deadline
    """

    def __init__(self, timeout: float, error: Callable[[], StorageError]) -> None:
        self._deadline = time.monotonic() + longest_wait(timeout)
        self._error = error
        self._delay = _FIRST_DELAY

    def wait(self) -> None:
        """Pause before the next attempt.

        :raises StorageError: the given error, if the deadline has passed
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._error()
        time.sleep(min(left, self._delay * _random.uniform(0.5, 1)))
        self._delay = min(self._delay * 2, _MAX_DELAY)


def exchange(pool: Any, client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send commands to one server together, and return its answers.

    redis-py would keep a connection after an interruption, and take its pending answer for that of another command.

    :param pool: a :class:`Pool`, or a pool of redis-py
    :raises ResponseError: redis-py's, for the first command that failed
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
    """Encode commands, as pieces to send. An argument is a str, bytes, a number, or :class:`Buffers`.

    redis-py encodes with hiredis. Its ``pack_command`` crashes the process (SIGSEGV in 3.5.0) if a signal handler
    raises in it, as Celery's soft time limit does. And it cannot send several buffers as one argument.
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
    """Whether a connection is open, with no unread answer."""
    try:
        if connection.is_connected:
            return not connection.can_read()
    except (exceptions.RedisError, OSError):
        pass
    return False


def _is_refused_for_now(error: Exception) -> bool:
    """Whether the server has reached its maxclients. It may close the connection before its error is read."""
    return "max number of clients" in str(error) or isinstance(
        error.__cause__ or error.__context__, (ConnectionResetError, BrokenPipeError)
    )
