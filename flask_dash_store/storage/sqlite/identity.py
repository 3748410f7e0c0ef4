"""Noticing that the database file has been deleted, or that another one was put in its place, while it is in use.

SQLite does not notice: it goes on writing to the file that it has open, which nobody will ever see again
(https://www.sqlite.org/howtocorrupt.html, section 1.4). So each write looks first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

from ...errors import StorageError

# For how long one look is enough, in seconds: a look takes a fifth of the time of a small write.
GLANCE = 50e-6

Inode = tuple[int, int]
Version = tuple[int, int, int]


class FileIdentity:
    """Which file a path named when it was opened.

    :param path: the database file, which exists
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._wal = f"{path}-wal"
        self._inode = _inode_of(path)
        self._wal_inode: Inode | None = None
        self._former_wal: Version | None = None
        self._look_again = 0.0

    def is_same(self) -> bool:
        """Whether the path still names that file."""
        now = monotonic()
        if now < self._look_again:
            return True
        try:
            is_same = _inode_of(self._path) == self._inode
        except OSError:
            return False
        self._look_again = now + GLANCE if is_same else 0.0
        return is_same

    def note_wal(self) -> None:
        """Remember which WAL a connection uses that was just opened. As long as it is open, no other has its inode."""
        self._wal_inode = _inode_of(self._wal)

    def leave(self) -> None:
        """Remember which WAL was the former file's, while the connections to that are still open."""
        version = _version_of(self._wal)
        self._former_wal = version if version is not None and version[:2] == self._wal_inode else None

    def follow(self) -> None:
        """Accept the file that the path names now, once all connections to the former one have been closed.

        :raises StorageError: when there is none, or when it cannot be told whose WAL lies beside it
        """
        with _one_process_at_a_time(os.path.dirname(self._path)):
            inode = _inode_of(self._path)
            if inode is None:
                raise StorageError(
                    f"The storage file {self._path} has gone while it was in use. Put it back, or restart the app, "
                    "which then begins with an empty one."
                )
            if inode != self._inode:
                self._remove_former_wal()
                self._inode = inode

    def _remove_former_wal(self) -> None:
        """A WAL beside another database than its own would be replayed into it (howtocorrupt.html, section 1.2)."""
        wal = _version_of(self._wal)
        if wal is None:
            return
        if wal == self._former_wal:
            os.unlink(self._wal)
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}-shm")
        elif os.stat(self._wal).st_size and os.stat(self._wal).st_mtime_ns < os.stat(self._path).st_ctime_ns:
            raise StorageError(
                f"Another file was put in the place of {self._path}, and {self._wal} beside it is older: it may "
                "belong to the former one. Remove it, or stop the app and use `flask user-store restore`."
            )


@contextmanager
def _one_process_at_a_time(directory: str) -> Iterator[None]:
    """Between a look at a WAL and its removal, no other process may have made a new one."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _inode_of(path: str) -> Inode | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _version_of(path: str) -> Version | None:
    """Tells a file from others, also from one that was given its inode later."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns
