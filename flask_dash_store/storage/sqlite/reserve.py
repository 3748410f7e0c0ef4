"""A little disk space that is kept back, so that logging out and deleting work when the disk is full.

SQLite has to write before it can free anything. A file takes the space while there is some, and makes way for a
moment when what frees space finds none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Logging out takes about 16 KiB of it.
RESERVED_BYTES = 4 * 2**20


class Reserve:
    """:param path: the file that takes the space"""

    def __init__(self, path: str) -> None:
        self._path = path
        self.keep()

    def keep(self) -> None:
        """Take the space, or as much of it as there is. On a full disk that may be none."""
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY, 0o600)
            try:
                if os.fstat(descriptor).st_size < RESERVED_BYTES:
                    self._fill(descriptor)
            finally:
                os.close(descriptor)

    @staticmethod
    def _fill(descriptor: int) -> None:
        nbytes = RESERVED_BYTES
        while nbytes:
            try:
                return os.posix_fallocate(descriptor, 0, nbytes)
            except OSError:
                nbytes //= 2
        return None

    @contextmanager
    def released(self) -> Iterator[None]:
        """A block in which the space may be used."""
        with suppress(OSError):
            os.unlink(self._path)
        try:
            yield
        finally:
            self.keep()
