"""Noticing that the database file has been deleted, or that another one was put in its place, while it is in use.

SQLite does not notice: it goes on writing to the file that it has open, which nobody will ever see again
(https://www.sqlite.org/howtocorrupt.html, section 1.4). So each write looks first.
"""

from __future__ import annotations

import os
from contextlib import suppress
from time import monotonic

from ...errors import StorageError
from .files import alone_in

# For how long one look is enough, in seconds: a look takes a fifth of the time of a small write.
GLANCE = 50e-6

WAL_FILES = ("-wal", "-shm")

Inode = tuple[int, int]


class FileIdentity:
    """Which file a path named when it was opened.

    ``is_known_until`` is the time, by the monotonic clock, for which the last look at it is good.

    :param path: the database file, which exists
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = _inode_of(path)
        self.is_known_until = 0.0
        self._wal_inodes: dict[str, Inode | None] = {}
        self._is_former_wal_gone = False

    def is_same(self) -> bool:
        """Whether the path still names that file."""
        is_same = _inode_of(self._path) == self._inode
        self.is_known_until = monotonic() + GLANCE if is_same else 0.0
        return is_same

    def note_wal(self) -> None:
        """Remember the files that SQLite keeps beside the database while somebody has it open."""
        self._wal_inodes = {f"{self._path}{suffix}": _inode_of(f"{self._path}{suffix}") for suffix in WAL_FILES}

    def check_present(self) -> None:
        """:raises StorageError: when the path names no file any more"""
        if _inode_of(self._path) is None:
            raise StorageError(
                f"The storage file {self._path} has gone while it was in use. Put it back, or restart the app, which "
                "then begins with an empty one."
            )

    def remove_former_wal(self) -> None:
        """A WAL beside another database than its own would be replayed into it (howtocorrupt.html, section 1.2).

        To be called while connections to the former file are open: until they are closed no other file, such as the
        WAL that another process has begun for the new one, can have the inode of theirs.
        """
        with alone_in(os.path.dirname(self._path)):
            for path, inode in self._wal_inodes.items():
                if inode is not None and _inode_of(path) == inode:
                    with suppress(FileNotFoundError):
                        os.unlink(path)
        self._is_former_wal_gone = bool(self._wal_inodes) and None not in self._wal_inodes.values()

    def follow(self) -> None:
        """Accept the file that the path names now, once all connections to the former one have been closed.

        :raises StorageError: when it cannot be told whose WAL lies beside it
        """
        if not self._is_former_wal_gone:
            self._check_wal()
        self._is_former_wal_gone = False
        self._wal_inodes = {}
        self._inode = _inode_of(self._path)

    def _check_wal(self) -> None:
        wal = f"{self._path}-wal"
        with suppress(FileNotFoundError):
            status = os.stat(wal)
            if status.st_size and status.st_mtime_ns < os.stat(self._path).st_ctime_ns:
                raise StorageError(
                    f"Another file was put in the place of {self._path}, and {wal} beside it is older: it may belong "
                    "to the former one. Stop the app, and remove it, or use `flask user-store restore`."
                )


def _inode_of(path: str) -> Inode | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
