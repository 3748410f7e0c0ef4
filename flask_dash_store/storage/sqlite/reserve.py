"""A little disk space that is kept back, so that logging out and deleting work when the disk is full.

SQLite has to write before it can free anything. So a file takes up some space while there is any. When a call that
frees space finds the disk full, the file is emptied until that call has ended.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..transaction import busy

# Logging out takes about 16 KiB of it.
RESERVED_BYTES = 4 * 2**20
LEAST_BYTES = 4096
POLL = 0.005


class Reserve:
    """The space that is kept back for one storage.

    :param path: the file that takes it up
    :param timeout: seconds to wait while another process uses the space
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    def keep(self) -> None:
        """Take up the space, or as much of it as there is. On a full disk that may be none."""
        with suppress(OSError):  # One that another process uses now is taken again by that process.
            descriptor = self._open(timeout=0.0)
            try:
                _fill(descriptor)
            finally:
                os.close(descriptor)

    @contextmanager
    def released(self) -> Iterator[None]:
        """A block in which the space is free, for one caller of all processes at a time.

        :raises StorageBusy: when another caller uses it for longer than the timeout
        """
        try:
            descriptor = self._open(self._timeout)
        except BlockingIOError:
            raise busy(f"reserve {self._path}", self._timeout) from None
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

    def _open(self, timeout: float) -> int:
        """The file, locked.

        :raises BlockingIOError: when another process has it locked for longer than the timeout
        """
        descriptor = os.open(self._path, os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY, 0o600)
        try:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise
                time.sleep(POLL)
        except BaseException:
            os.close(descriptor)
            raise


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
