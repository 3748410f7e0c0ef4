"""The storages, and how a URL names one."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigurationError
from .base import Storage
from .connecting import Synchronous
from .limits import DEFAULT_MAX_BYTES, DEFAULT_MAX_KEYS, DEFAULT_TIMEOUT
from .sqlite import SqliteStorage

__all__ = ["Storage", "open_storage"]

_SCHEME = "sqlite://"
_MEMORY = (":memory:", "/:memory:")


def open_storage(
    url: str,
    *,
    folder: Path,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_keys: int = DEFAULT_MAX_KEYS,
    timeout: float = DEFAULT_TIMEOUT,
    synchronous: Synchronous = "NORMAL",
) -> Storage:
    """The storage that a URL names.

    :param url: ``sqlite:///name`` is a file in ``folder``, ``sqlite:///absolute/path`` a file anywhere (a fourth
        slash, as others write it, does no harm), and ``sqlite://:memory:`` lives in this process's memory
    :raises ConfigurationError: when it is none of these
    :raises StorageError: when the storage cannot be opened
    """
    path = url.removeprefix(_SCHEME)
    if path == url or not (path in _MEMORY or path.strip("/")):
        raise ConfigurationError(
            f"USER_STORE_URL (url=) is {url!r}; it can be sqlite:///name, sqlite:///absolute/path or sqlite://:memory:."
        )
    if path in _MEMORY:
        location = ":memory:"
    else:
        name = path.lstrip("/")
        location = str(folder / name if "/" not in name else Path("/") / name)
    return SqliteStorage(location, max_bytes=max_bytes, max_keys=max_keys, timeout=timeout, synchronous=synchronous)
