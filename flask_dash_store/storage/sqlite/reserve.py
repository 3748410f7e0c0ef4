"""A little disk space that is kept back, so that logging out and deleting work when the disk is full.

SQLite has to write before it can free anything. A file takes the space while there is some, and makes way for a
access when what frees space finds none.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Logging out takes about 16 KiB of it.
RESERVED_BYTES = 4 * 2**20
LEAST_BYTES = 4096


class Reserve:
    """:param path: the file that takes the space"""

    def __init__(self, path: str) -> None:
        self._path = path

    def keep(self) -> None:
        """Take the space, or as much of it as there is. On a full disk that may be none."""
        with suppress(OSError):
            descriptor = self._open()
            try:
                _fill(descriptor)
            finally:
                os.close(descriptor)

    @contextmanager
    def released(self) -> Iterator[None]:
        """A block in which the space may be used, by one caller of all processes at a time."""
        try:
            descriptor = self._open()
        except OSError:
            yield  # There is no such file, and none can be made.
            return
        try:
            os.ftruncate(descriptor, 0)
            try:
                yield
            finally:
                _fill(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor


def _fill(descriptor: int) -> None:
    taken, step = os.fstat(descriptor).st_size, RESERVED_BYTES
    while taken < RESERVED_BYTES and step >= LEAST_BYTES:
        try:
            _take(descriptor, taken, min(step, RESERVED_BYTES - taken))
            taken += step
        except OSError:
            step //= 2


def _take(descriptor: int, offset: int, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, nbytes)
    else:  # macOS
        os.pwrite(descriptor, bytes(nbytes), offset)
