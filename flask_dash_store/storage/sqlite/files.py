"""Checks that the storage's files are private, and that they have not been deleted or replaced.

SQLite does not notice if its file, or the WAL, is deleted or replaced while it is in use: it continues to write to the
file that it has open, which no one can read later (https://www.sqlite.org/howtocorrupt.html, sections 1.4 and 2.2). So
each write checks first.

Windows has neither user ids nor modes. There, a file gets the access control list of the folder in which it is created,
such as the user's profile.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from time import monotonic

from ...errors import StorageError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's errors for a full disk, an exhausted quota, and a file that has reached its size limit."""

SIDE_FILES = ("", "-wal", "-shm")

_creating = threading.Lock()


def prepare_private_file(path: Path) -> Path:
    """Create the file if it does not exist, private to this user, and check that it belongs to this user.

    Missing directories are created, private as well. SQLite gives its ``-wal`` and ``-shm`` files the mode of the
    database file, whatever the umask.

    :returns: the file's path, with links in its directories resolved
    :raises StorageError: if it cannot be created, or is not a regular file of this user
    """
    try:
        # mkdir(parents=True) would create the parent directories with the mode of the umask.
        for directory in reversed([path.parent, *path.parent.parents]):
            if not directory.exists():
                directory.mkdir(mode=0o700, exist_ok=True)
        path = path.parent.resolve() / path.name
        _create(path)
        _check(path)
    except OSError as error:
        reason = access_problem(path) or f"The storage file {path} cannot be used: {error.strerror}."
        raise StorageError(reason) from error
    return path


def _create(path: Path) -> None:
    # Closing this descriptor drops SQLite's locks on the file. So the lock keeps other threads from opening the file
    # before. Another process may create it first.
    with _creating, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def check_private_directory(path: Path) -> None:
    """Make a directory private, if it exists.

    :raises StorageError: if it is a link or not a directory, or belongs to another user
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise StorageError(f"{path} is a link, or not a directory. Remove it.")
        _check_owner(path)
        _restrict(path, 0o700)


def _check(path: Path) -> None:
    for suffix in SIDE_FILES:
        file = Path(f"{path}{suffix}")
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(file.lstat().st_mode):
                raise StorageError(f"The storage file {file} is a link, or not a regular file. Name the file itself.")
            _check_owner(file)


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise StorageError(_not_ours(path, status.st_uid))


def access_problem(path: Path) -> str | None:
    """Explain why this process may not use a storage file, if a file or directory of another user is the reason.

    :returns: an error message that says whose it is and what to do; None if that is not the reason, or not known
    """
    if not hasattr(os, "geteuid"):
        return None
    directories = [*reversed(path.parent.parents), path.parent]
    needed = [(each, os.X_OK) for each in directories]
    needed += [(Path(f"{path}{suffix}"), os.R_OK | os.W_OK) for suffix in SIDE_FILES] + [(path.parent, os.W_OK)]
    for file, mode in needed:
        with suppress(OSError):  # A missing file is not the reason.
            owner = file.stat().st_uid
            # A directory that this user has closed for themselves is another problem.
            if owner != os.geteuid() and not os.access(file, mode, effective_ids=True):
                return _not_ours(file, owner)
    return None


def _not_ours(path: Path, owner: int) -> str:
    current: int = os.geteuid()  # type: ignore[attr-defined, unused-ignore]  # The callers have checked that it exists.
    return (
        f"{path} belongs to {_user_name(owner)} (uid {owner}), and this process runs as {_user_name(current)} "
        f"(uid {current}), so it may not use it. Run all processes that open the storage as one user. If root starts "
        "the server, and it then changes its user (gunicorn --user), it must not open the storage before, as it may "
        "with --preload. Give files that root has created to the user with chown."
    )


def _user_name(uid: int) -> str:
    import pwd  # Windows has none.

    try:
        return str(pwd.getpwuid(uid).pw_name)  # type: ignore[attr-defined, unused-ignore]
    except KeyError:
        return "a user without a name"


def make_private(path: str) -> None:
    """Make an existing database file private, and the files beside it."""
    for suffix in SIDE_FILES:
        with suppress(FileNotFoundError):
            _restrict(Path(f"{path}{suffix}"), 0o600)


def _restrict(path: Path, mode: int) -> None:
    if path.stat().st_mode & 0o077:
        path.chmod(mode)


class TemporaryDirectory:
    """A private directory that is deleted with the process that created it, but not with a fork of it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="flask_dash_store-"))
        self.remove = weakref.finalize(self, _remove_own, self.path, os.getpid())


def _remove_own(path: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


# Whether the files have been replaced

# Seconds for which one check is enough. It takes a fifth of the time of a small write.
CHECK_INTERVAL = 50e-6

Inode = tuple[int, int]


class FileIdentity:
    """The inodes of the database file when the storage was opened, and of its WAL while connections are open.

    :param path: the database file, which exists
    :ivar is_checked_until: until when the last check is valid, by the monotonic clock
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._wal_path = f"{path}-wal"
        self._inode = _inode_of(path)
        self._wal_inode: Inode | None = None
        self.is_checked_until = 0.0

    def is_same(self) -> bool:
        """Whether the database file and its WAL are still the same."""
        try:  # Inlined, because each write does this.
            file = os.stat(self.path)
            is_same = (file.st_dev, file.st_ino) == self._inode
            if self._wal_inode is not None:
                wal = os.stat(self._wal_path)
                is_same &= (wal.st_dev, wal.st_ino) == self._wal_inode
        except OSError:
            is_same = False
        self.is_checked_until = monotonic() + CHECK_INTERVAL if is_same else 0.0
        return is_same

    def is_same_wal(self) -> bool:
        """Whether the WAL is the one to which our connections write.

        :raises StorageError: if the database file itself was deleted or replaced
        """
        found = _inode_of(self.path)
        if found is None:
            raise StorageError(
                access_problem(Path(self.path))
                or f"The storage file {self.path} was deleted while it was in use. Put it back, or restart the app, "
                "which then creates an empty one."
            )
        if found != self._inode:
            raise StorageError(
                f"The storage file {self.path} was replaced by another file while it was in use. Restart the app. Next "
                "time use `flask user-store restore`, which needs no restart."
            )
        return self._is_wal_known()

    def _is_wal_known(self) -> bool:
        return self._wal_inode is None or _inode_of(self._wal_path) == self._wal_inode

    def note_wal(self) -> None:
        """Remember the WAL's inode. SQLite keeps the file while any process has the database open."""
        self._wal_inode = _inode_of(self._wal_path)

    def forget_wal(self) -> None:
        """Forget the WAL's inode. No connection is open, so the next one may create a new WAL."""
        self._wal_inode = None


def _inode_of(path: str) -> Inode | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
