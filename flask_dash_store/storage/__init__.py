"""The storages, and how a URL names one."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigurationError, StorageError
from .base import Storage, Synchronous
from .limits import DEFAULT_MAX_BYTES, DEFAULT_MAX_KEYS, DEFAULT_TIMEOUT
from .sqlite import SqliteStorage

__all__ = ["Storage", "open_storage"]

_SQLITE = "sqlite://"
_MEMORY = (":memory:", "/:memory:")
_REDIS = ("redis", "rediss", "valkey", "valkeys", "unix")
_POSTGRESQL = ("postgresql", "postgres")


def open_storage(
    url: str,
    *,
    folder: Path,
    keep_ended: float,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_keys: int = DEFAULT_MAX_KEYS,
    timeout: float = DEFAULT_TIMEOUT,
    synchronous: Synchronous = "NORMAL",
    must_exist: bool = False,
) -> Storage:
    """The storage that a URL names.

    :param url: ``sqlite:///name`` is a file in ``folder``, ``sqlite:///absolute/path`` a file anywhere (a fourth
        slash, as others write it, does no harm), and ``sqlite://:memory:`` lives in this process's memory;
        ``redis://``, ``postgresql://`` and their kin are servers
    :param keep_ended: seconds for which it must be known that a session was ended: as long as its cookie could be
        replayed
    :param must_exist: whether a SQLite file that is not there is an error, instead of being made
    :raises ConfigurationError: when it is none of these, or a package that it takes is not installed
    :raises StorageError: when the storage cannot be opened
    """
    scheme = url.partition(":")[0].partition("+")[0]
    # Nobody has to install what talks to a server that they have not.
    if scheme in _REDIS:
        from .redis import RedisStorage

        return RedisStorage(url, max_bytes=max_bytes, max_keys=max_keys, timeout=timeout, keep_ended=keep_ended)
    if scheme in _POSTGRESQL:
        from .postgresql import PostgresqlStorage

        return PostgresqlStorage(url, max_bytes=max_bytes, max_keys=max_keys, timeout=timeout, synchronous=synchronous)
    location = _location(url, folder)
    if must_exist and location != ":memory:" and not Path(location).exists():
        raise StorageError(f"There is no file {location}.")
    return SqliteStorage(location, max_bytes=max_bytes, max_keys=max_keys, timeout=timeout, synchronous=synchronous)


def _location(url: str, folder: Path) -> str:
    path = url.removeprefix(_SQLITE)
    if path == url or not (path in _MEMORY or path.strip("/")):
        scheme, separator, _ = url.partition("://")
        shown = f"{scheme}://…" if separator else url  # The rest may hold a password.
        raise ConfigurationError(
            f"USER_STORE_URL (url=) is {shown!r}; it can be sqlite:///name, sqlite:///absolute/path, "
            "sqlite://:memory:, redis://host:port/db or postgresql://user@host/database."
        )
    if path in _MEMORY:
        return ":memory:"
    name = path.lstrip("/")
    return str(folder / name if "/" not in name else Path("/") / name)
