"""The storage's files: that they are their owner's alone, and are still there.

SQLite does not notice that its file, or the WAL, has been deleted or replaced while it is in use: it goes on writing to
the file that it has open, which no one will ever see again (https://www.sqlite.org/howtocorrupt.html, sections 1.4 and
2.2). So each write looks first.

Windows has neither users' numbers nor modes: there a file is private by the access control list of the folder in which
it is made, such as the user's profile.
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
"""What the system says when a disk, a quota, or the limit of a file's size is full."""

SIDE_FILES = ("", "-wal", "-shm")

_creating = threading.Lock()


def prepare_private_file(path: Path) -> Path:
    """Make sure that the file exists, and is this user's. One that is made here is for its owner alone.

    Missing directories are made, for the owner alone. SQLite gives its ``-wal`` and ``-shm`` files the mode of the
    file itself, whatever the umask.

    :returns: the file's path, without links in its directories
    :raises StorageError: when it cannot be made, or is not a regular file of this user
    """
    try:
        # parents=True would give the directories between the mode that the umask leaves.
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
    # The lock keeps another thread from opening the file with SQLite before this descriptor is closed, for closing
    # it would drop SQLite's locks. Another process may be first.
    with _creating, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def check_private_directory(path: Path) -> None:
    """Make sure that a directory, if there is one, is open to its owner alone.

    :raises StorageError: when it is a link or not a directory, or belongs to another user
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise StorageError(f"{path} is a link or no directory; remove it.")
        _check_owner(path)
        _restrict(path, 0o700)


def _check(path: Path) -> None:
    for suffix in SIDE_FILES:
        file = Path(f"{path}{suffix}")
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(file.lstat().st_mode):
                raise StorageError(f"The storage file {file} is a link or no regular file; name the file itself.")
            _check_owner(file)


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise StorageError(_not_ours(path, status.st_uid))


def access_problem(path: Path) -> str | None:
    """Why this process's user may not use a storage file, when a file or directory of another user is the reason.

    :returns: whose it is and what to do, as an error message; None when that is not the reason, or the system does not
        say
    """
    if not hasattr(os, "geteuid"):
        return None
    directories = [*reversed(path.parent.parents), path.parent]
    needed = [(each, os.X_OK) for each in directories]
    needed += [(Path(f"{path}{suffix}"), os.R_OK | os.W_OK) for suffix in SIDE_FILES] + [(path.parent, os.W_OK)]
    for file, mode in needed:
        with suppress(OSError):  # What is not there keeps no one out.
            owner = file.stat().st_uid
            # A directory of this user's own that is closed to it is another fault.
            if owner != os.geteuid() and not os.access(file, mode, effective_ids=True):
                return _not_ours(file, owner)
    return None


def _not_ours(path: Path, owner: int) -> str:
    present: int = os.geteuid()  # type: ignore[attr-defined, unused-ignore]  # Its callers have looked for it.
    return (
        f"{path} belongs to {_user_name(owner)} (uid {owner}), and this process, which runs as {_user_name(present)} "
        f"(uid {present}), may not use it for its storage. Run all that opens the storage as one user. A server that "
        "root starts and that then changes its user (gunicorn --user) must not open it before, as --preload lets an "
        "app do; what root has made already, give to the user with chown."
    )


def _user_name(uid: int) -> str:
    import pwd  # Windows has none.

    try:
        return str(pwd.getpwuid(uid).pw_name)  # type: ignore[attr-defined, unused-ignore]
    except KeyError:
        return "a user without a name"


def make_private(path: str) -> None:
    """Let the owner alone read a database file that was there before, and the files beside it."""
    for suffix in SIDE_FILES:
        with suppress(FileNotFoundError):
            _restrict(Path(f"{path}{suffix}"), 0o600)


def _restrict(path: Path, mode: int) -> None:
    if path.stat().st_mode & 0o077:
        path.chmod(mode)


class TemporaryDirectory:
    """A private directory that goes away with the process that made it, not with a fork of that process."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="flask_dash_store-"))
        self.remove = weakref.finalize(self, _remove_own, self.path, os.getpid())


def _remove_own(path: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


# Whether they are still there

# For how long one look is enough, in seconds: a look takes a fifth of the time of a small write.
CHECK_INTERVAL = 50e-6

Inode = tuple[int, int]


class FileIdentity:
    """Which database file a path named when the storage was opened, and which WAL since a connection is open.

    ``is_checked_until`` is the time, by the monotonic clock, for which the last look at them is good.

    :param path: the database file, which exists
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._wal_path = f"{path}-wal"
        self._inode = _inode_of(path)
        self._wal_inode: Inode | None = None
        self.is_checked_until = 0.0

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
        self.is_checked_until = monotonic() + CHECK_INTERVAL if is_same else 0.0
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
