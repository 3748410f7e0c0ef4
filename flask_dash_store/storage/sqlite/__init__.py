"""The default storage: sqlitedict tables in one SQLite file in WAL mode, and large values in files beside it."""

from pathlib import Path

from ...errors import ConfigurationError, StorageError
from ..base import Storage, StorageOptions
from ..memory import MemoryStorage
from .storage import SqliteStorage

__all__ = ["SqliteStorage", "open_url"]

_MEMORY = (":memory:", "/:memory:")


def open_url(url: str, options: StorageOptions) -> Storage:
    """The storage that a ``sqlite://`` URL names.

    As in Flask-SQLAlchemy, ``sqlite:///name`` and ``sqlite:///folder/name`` are in ``options.folder``, and a fourth
    slash begins an absolute path. ``sqlite://:memory:`` is another name for ``memory://``.

    :raises ConfigurationError: if the URL names no file, or a file that only early versions would have found
    :raises StorageError: if the file cannot be opened
    """
    path = url.removeprefix("sqlite://")
    if path in _MEMORY:
        return MemoryStorage(options.limits, options.timeout)
    file = _file(path, options)
    return SqliteStorage(file, limits=options.limits, timeout=options.timeout, synchronous=options.synchronous)


def _file(path: str, options: StorageOptions) -> Path:
    if not path.startswith("/") or not path.strip("/"):
        raise ConfigurationError(
            "USER_STORE_URL (url=) begins with sqlite://, so it must be sqlite:///name for a file in the instance "
            "folder, sqlite:////absolute/path (on Windows sqlite:///C:/path) or sqlite://:memory:."
        )
    file, former = options.folder / path[1:], Path(path)
    # In early versions, three slashes and a folder were an absolute path. A new, empty file would look like data loss.
    if former != file and "/" in path[1:] and former.exists() and not file.exists():
        raise ConfigurationError(
            f"USER_STORE_URL (url=) is sqlite://{path}, which names {file}. That does not exist, but {former} does. "
            f"If you mean that file, use four slashes: sqlite:///{former}. Otherwise, move it to the instance folder."
        )
    if options.must_exist and not file.exists():
        raise StorageError(f"The file {file} of USER_STORE_URL (url=) does not exist.")
    return file
