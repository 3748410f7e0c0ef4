"""A Python that lacks what it lacks on Windows, wherever PYTHONPATH names this folder first: in child processes too.

It takes from the standard library what Windows has not, adds what Windows alone has, refuses to unlink, rename or
replace what is open or mapped, and has clocks as coarse as those of Windows. ``sys.platform`` stays what it is, for all
other packages go by it: flask_dash_store looks for each function instead.

Not simulated: paths with drives, access control lists, files that other processes have open, and Windows itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import shutil
import stat
import subprocess  # noqa: F401  # What needs fcntl is imported before that goes.
import sys
import time
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from types import ModuleType, SimpleNamespace
from typing import Any

TICK = 1 / 64
DRIVE_FIXED = 3
UNLOCK, LOCK_WITHOUT_WAITING = 0, 2
MISSING_MODULES = ("fcntl", "grp", "pwd")
MISSING = ("O_DIRECTORY", "O_NOFOLLOW", "fork", "geteuid", "posix_fallocate", "pread", "pwrite", "register_at_fork")
# What Python's multiprocessing unlinks while it has it open.
SHARED_MEMORY = "pym-"
LINUX_FILES = ("/proc/self/mountinfo", "/proc/sys/kernel/random/boot_id")

_open, _stat, _fstat = os.open, os.stat, os.fstat


def _refused(path: Any) -> PermissionError:
    return PermissionError(errno.EACCES, "The process cannot access the file because it is being used", str(path))


def _is_in_use(path: Any) -> bool:
    """Whether this process has a file open. Python keeps one open for as long as it is mapped."""
    try:
        sought = _stat(path, follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISREG(sought.st_mode) or os.path.basename(os.fsdecode(path)).startswith(SHARED_MEMORY):
        return False
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found = _fstat(int(descriptor))
        except OSError:  # That of the listing itself.
            continue
        if (found.st_dev, found.st_ino) == (sought.st_dev, sought.st_ino):
            return True
    return False


def _unless_in_use(function: Callable[..., Any], replaces: bool) -> Callable[..., Any]:
    def on_windows(path: Any, *args: Any, **options: Any) -> Any:
        if any(map(_is_in_use, (path, *args))):
            raise _refused(path)
        if args and not replaces and os.path.lexists(args[0]):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path), None, str(args[0]))
        return function(path, *args, **options)

    return on_windows


def _open_no_directory(path: Any, flags: int, *args: Any, **options: Any) -> int:
    if os.path.isdir(path) and not flags & os.O_TMPFILE == os.O_TMPFILE:  # That makes a file, for Python's tempfile.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return _open(path, flags, *args, **options)


def _coarse(clock: Callable[[], float]) -> Callable[[], float]:
    """Windows' clocks tick 64 times a second, until Python 3.13."""
    return lambda: clock() // TICK * TICK


def _without_linux_files(read_text: Callable[..., str]) -> Callable[..., str]:
    def on_windows(path: pathlib.Path, *args: Any, **options: Any) -> str:
        if str(path) in LINUX_FILES:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return read_text(path, *args, **options)

    return on_windows


def _kernel(_: str) -> SimpleNamespace:
    milliseconds = int(time.monotonic() * 1000)

    def ticks() -> int:
        return milliseconds

    return SimpleNamespace(GetDriveTypeW=lambda _: DRIVE_FIXED, GetTickCount64=ticks)


def _locking(descriptor: int, mode: int, _: int) -> None:
    """``msvcrt.locking``, which locks from the present position on; here it is the whole file."""
    try:
        flock(descriptor, LOCK_UN if mode == UNLOCK else LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error


for _name in MISSING:
    delattr(os, _name)
for _name in MISSING_MODULES:
    sys.modules[_name] = None  # type: ignore[assignment]
os.unlink = os.remove = _unless_in_use(os.unlink, replaces=False)
os.rename = _unless_in_use(os.rename, replaces=False)
os.replace = _unless_in_use(os.replace, replaces=True)
os.open = _open_no_directory
shutil._use_fd_functions = False  # type: ignore[attr-defined]  # noqa: SLF001  # They open directories.
pathlib.Path.read_text = _without_linux_files(pathlib.Path.read_text)  # type: ignore[method-assign]
time.monotonic, time.time = _coarse(time.monotonic), _coarse(time.time)
sys.modules["msvcrt"] = _msvcrt = ModuleType("msvcrt")
vars(_msvcrt).update(LK_UNLCK=UNLOCK, LK_NBLCK=LOCK_WITHOUT_WAITING, locking=_locking)
ctypes.WinDLL = _kernel  # type: ignore[attr-defined]
os.environ["PSYCOPG_WAIT_FUNC"] = "wait_select"  # as psycopg itself chooses there
