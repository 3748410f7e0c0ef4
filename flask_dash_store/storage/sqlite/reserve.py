"""A little disk space that is kept back, so that logging out and deleting work when the disk is full.

SQLite has to write before it can free anything. So a file takes up some space while there is any. When a call that
frees space finds the disk full, the file is emptied until that call has ended.

The lock is filelock's, for what a lock of all processes is differs most between systems (flock on POSIX, LockFileEx on
Windows): one that goes away with its process, that a fork does not keep, and that an interrupted call gives back. It
is of a file of its own, since Windows lets no other process write to what is locked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from filelock import FileLock, Timeout

from ..transaction import busy

# Logging out takes about 16 KiB of it.
RESERVED_BYTES = 4 * 2**20
LEAST_BYTES = 4096
POLL = 0.005

_FLAGS = os.O_CREAT | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)


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
            acquired, descriptor = self._acquire(timeout=0.0)
            with acquired:
                _fill(descriptor)

    @contextmanager
    def released(self) -> Iterator[None]:
        """A block in which the space is free, for one caller of all processes at a time.

        :raises StorageBusy: when another caller uses it for longer than the timeout
        """
        try:
            acquired, descriptor = self._acquire(self._timeout)
        except Timeout:
            raise busy(f"reserve {self._path}", self._timeout) from None
        except OSError:
            yield  # There is no such file, and none can be made.
            return
        with acquired:
            os.ftruncate(descriptor, 0)
            try:
                yield
            finally:
                _fill(descriptor)

    def _acquire(self, timeout: float) -> tuple[ExitStack, int]:
        """The file, until the stack is closed.

        :raises Timeout: when another caller has it locked for longer than the timeout
        """
        lock = FileLock(f"{self._path}.lock", mode=0o600, thread_local=False)  # Greenlets share a thread.
        with ExitStack() as stack:
            stack.enter_context(lock.acquire(timeout, POLL))
            descriptor = os.open(self._path, _FLAGS, 0o600)
            stack.callback(os.close, descriptor)
            return stack.pop_all(), descriptor


def _fill(descriptor: int) -> None:
    step = RESERVED_BYTES
    while (taken := os.fstat(descriptor).st_size) < RESERVED_BYTES and step >= LEAST_BYTES:
        try:
            _take(descriptor, taken, min(step, RESERVED_BYTES - taken))
        except OSError:
            step //= 2


def _take(descriptor: int, offset: int, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, nbytes)
    else:  # macOS and Windows, which may write less than that.
        os.lseek(descriptor, offset, os.SEEK_SET)
        os.write(descriptor, bytes(nbytes))
