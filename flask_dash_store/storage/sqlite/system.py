"""What differs between operating systems: file locks, the id of the current boot, and Windows' API.

The code checks for features, not for the name of the system, so that a test can take a feature away.

No package replaces these locks. A lock of filelock 4.3 stays acquired if a signal handler raises inside its calls, as
Celery's time limits do (``tests/sqlite/test_reserve.py`` fails with it). portalocker 4.4 imports redis if that is
installed.
"""

from __future__ import annotations

import ctypes
import os
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# macOS has an id for each boot. All descendants of 4.4BSD have its time, in seconds and microseconds.
_SYSCTLS = (b"kern.bootsessionuuid", b"kern.boottime")
_LONGEST = 64

# Windows locks bytes against reading and writing. They may be behind the end of the file.
_LOCKED_BYTE = 2**30


def _module(name: str) -> Any | None:
    try:
        return import_module(name)
    except ImportError:
        return None


_fcntl = _module("fcntl")
_msvcrt = None if _fcntl else _module("msvcrt")


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file against all other openings of it. The lock ends with the process at the latest.

    :returns: whether it is locked now; False if another opening has locked it
    """
    try:
        if _fcntl is not None:
            _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        elif _msvcrt is not None:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # On POSIX, and on Windows.
        return False
    return True


def unlock(descriptor: int) -> None:
    """Unlock a file, also in processes that have inherited it."""
    if _fcntl is not None:
        _fcntl.flock(descriptor, _fcntl.LOCK_UN)
    elif _msvcrt is not None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        _msvcrt.locking(descriptor, _msvcrt.LK_UNLCK, 1)


def boot_id() -> str:
    """An id of the time since the last boot, which a power loss ends.

    If the system has none, each process uses its own.
    """
    return _first((_of_linux, _of_bsd, _of_windows)) or str(uuid.uuid4())


def _first(sources: Iterable[Callable[[], str | None]]) -> str | None:
    return next(filter(None, (source() for source in sources)), None)


def _of_linux() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


def _of_bsd() -> str | None:
    """From ``sysctl``, whose function Linux does not have."""
    try:
        sysctl = ctypes.CDLL(None).sysctlbyname
    except (AttributeError, OSError, TypeError):  # Windows has no library of the process itself.
        return None
    return _first(partial(_sysctl, sysctl, name) for name in _SYSCTLS)


def _sysctl(sysctl: Callable[..., int], name: bytes) -> str | None:
    value = ctypes.create_string_buffer(_LONGEST)
    size = ctypes.c_size_t(_LONGEST)
    if sysctl(name, value, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return value.raw[: size.value].hex()


def _of_windows() -> str | None:
    """The second in which Windows was started. If its clock is set, the id changes, which costs one more check."""
    kernel = windows_kernel()
    if kernel is None:
        return None
    kernel.GetTickCount64.restype = ctypes.c_uint64
    return f"started at {round(time.time() - kernel.GetTickCount64() / 1000)}"


def windows_kernel() -> Any | None:
    """Windows' kernel32.dll; None on other systems."""
    library = getattr(ctypes, "WinDLL", None)
    return None if library is None else library("kernel32")
