"""Reserves a little disk space, so that logging out and deleting work when the disk is full.

SQLite must write before it can free anything. So a file occupies some space while there is any. When a call that frees
space finds the disk full, the file is emptied until the call has ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO

from ..timeouts import busy
from .system import try_lock, unlock

# Logging out takes about 16 KiB of it.
RESERVED_BYTES = 4 * 2**20
MIN_STEP_BYTES = 4096
POLL = 0.005

_FLAGS = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)


class Reserve:
    """The reserved space of one storage.

    :param path: the file that occupies it
    :param timeout: seconds to wait while another process uses the space
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    def keep(self) -> None:
        """Occupy the space, or as much of it as is free.

        If another process is using the space, it will occupy it again by itself.
        """
        with suppress(OSError), self._open() as file, self._locked(file, 0.0):
            _fill(file.fileno())

    @contextmanager
    def released(self) -> Iterator[None]:
        """A block in which the space is free. One caller at a time, of all processes, may use it.

        :raises StorageBusy: if another caller uses it for longer than the timeout
        """
        try:
            file = self._open()
        except OSError:
            yield  # There is no file, and it cannot be created.
            return
        with file, self._locked(file, self._timeout):
            os.ftruncate(file.fileno(), 0)
            try:
                yield
            finally:
                _fill(file.fileno())

    def _open(self) -> FileIO:
        # A file object, so that one that an interrupted call has lost is closed, which unlocks it.
        return open(self._path, "r+b", buffering=0, opener=lambda path, _: os.open(path, _FLAGS, 0o600))

    @contextmanager
    def _locked(self, file: FileIO, timeout: float) -> Iterator[None]:
        deadline = time.monotonic() + timeout
        while not try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise busy(f"reserve {self._path}", timeout)
            time.sleep(POLL)
        try:
            yield
        finally:
            unlock(file.fileno())  # Closing is not enough if a fork has inherited it.


def _fill(descriptor: int) -> None:
    step = RESERVED_BYTES
    while (taken := os.fstat(descriptor).st_size) < RESERVED_BYTES and step >= MIN_STEP_BYTES:
        try:
            _allocate(descriptor, taken, min(step, RESERVED_BYTES - taken))
        except OSError:
            step //= 2


def _allocate(descriptor: int, offset: int, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, nbytes)
    else:  # macOS and Windows. It may write less.
        os.lseek(descriptor, offset, os.SEEK_SET)
        os.write(descriptor, bytes(nbytes))
