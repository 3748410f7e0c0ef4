"""Noticing that the database file, or its WAL, has been deleted or replaced while it is in use.

SQLite does not notice: it goes on writing to the file that it has open, which no one will ever see again
(https://www.sqlite.org/howtocorrupt.html, sections 1.4 and 2.2). So each write looks first.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic

from ...errors import StorageError
from .files import access_problem

# For how long one look is enough, in seconds: a look takes a fifth of the time of a small write.
GLANCE = 50e-6

Inode = tuple[int, int]


class FileIdentity:
    """Which database file a path named when the storage was opened, and which WAL since a connection is open.

    ``is_known_until`` is the time, by the monotonic clock, for which the last look at them is good.

    :param path: the database file, which exists
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._wal_path = f"{path}-wal"
        self._inode = _inode_of(path)
        self._wal_inode: Inode | None = None
        self.is_known_until = 0.0

    def is_same(self) -> bool:
        """Whether the path still names that file, and its WAL, by one look that is good for a while."""
        try:  # Without helpers, for each write does this.
            file = os.stat(self.path)
            is_same = (file.st_dev, file.st_ino) == self._inode
            if self._wal_inode is not None:
                wal = os.stat(self._wal_path)
                is_same &= (wal.st_dev, wal.st_ino) == self._wal_inode
        except OSError:
            is_same = False
        self.is_known_until = monotonic() + GLANCE if is_same else 0.0
        return is_same

    def is_same_wal(self) -> bool:
        """Whether the WAL is the one that our connections write to.

        :raises StorageError: when the database file itself is another one
        """
        found = _inode_of(self.path)
        if found is None:
            raise StorageError(
                access_problem(Path(self.path))
                or f"The storage file {self.path} has gone while it was in use. Put it back, or restart the app, which "
                "then begins with an empty one."
            )
        if found != self._inode:
            raise StorageError(
                f"Another file was put in the place of the storage file {self.path} while it was in use. Restart the "
                "app, and next time use `flask user-store restore`, which needs no restart."
            )
        return self._is_wal_known()

    def _is_wal_known(self) -> bool:
        return self._wal_inode is None or _inode_of(self._wal_path) == self._wal_inode

    def note_wal(self) -> None:
        """Remember the WAL. SQLite keeps it for as long as any process has the database open."""
        self._wal_inode = _inode_of(self._wal_path)

    def forget_wal(self) -> None:
        """No connection is open any more, so the next one may begin another WAL."""
        self._wal_inode = None


def _inode_of(path: str) -> Inode | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
