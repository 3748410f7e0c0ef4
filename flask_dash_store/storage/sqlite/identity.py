"""Noticing that the database file has been deleted, or that another one was put in its place, while it is in use.

SQLite does not notice: it goes on writing to the file that it has open, which nobody will ever see again
(https://www.sqlite.org/howtocorrupt.html, section 1.4). So each write looks first.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from time import monotonic

from ...errors import StorageError

Inode = tuple[int, int]

WAL_FILES = ("-wal", "-shm")

# For how long one look is enough, in seconds: a look takes a fifth of the time of a small write.
GLANCE = 50e-6


class FileIdentity:
    """Which file a path named when it was opened.

    :param path: the database file, which exists
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = _inode_of(path)
        self._wal_inodes: dict[str, Inode | None] = {}
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
        """Remember the files that SQLite keeps beside the database while somebody has it open."""
        self._wal_inodes = {f"{self._path}{suffix}": _inode_of(f"{self._path}{suffix}") for suffix in WAL_FILES}

    def follow(self) -> None:
        """Accept the file that the path names now, once all connections to the former one have been closed.

        :raises StorageError: when there is none, or when it cannot be told whose WAL lies beside it
        """
        inode = _inode_of(self._path)
        if inode is None:
            raise StorageError(
                f"The storage file {self._path} has gone while it was in use. Put it back, or restart the app, which "
                "then begins with an empty one."
            )
        if inode != self._inode:
            self._remove_former_wal()
            self._inode = inode

    def _remove_former_wal(self) -> None:
        """A WAL beside another database than its own would be replayed into it (howtocorrupt.html, section 1.2)."""
        for path, inode in self._wal_inodes.items():
            if inode is not None and _inode_of(path) == inode:
                os.unlink(path)
        wal = Path(f"{self._path}-wal")
        with suppress(FileNotFoundError):
            if wal.stat().st_size and wal.stat().st_mtime_ns < Path(self._path).stat().st_ctime_ns:
                raise StorageError(
                    f"Another file was put in the place of {self._path}, and {wal.name} beside it is older: it may "
                    "belong to the former one. Remove it, or stop the app and use `flask user-store restore`."
                )


def _inode_of(path: str) -> Inode | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
