"""How commands are written for the server: RESP, in pieces, without a copy of what is large.

redis-py does it with hiredis, whose ``pack_command`` ends the process with SIGSEGV when a signal's handler raises in it
(3.5.0; Celery's soft time limit does), and which cannot send several buffers as one argument.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...buffers import Buffers

# Each piece has the time of an answer to go out: what is large may take longer than that.
_PIECE = 2**20
_SMALL = 2**14


def packed(commands: Sequence[tuple[Any, ...]]) -> Iterator[bytes | memoryview]:
    """Commands as pieces of what is sent. An argument is text, bytes, a number, or :class:`Buffers`."""
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
