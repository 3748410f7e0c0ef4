"""The default storage: sqlitedict tables in one SQLite file in WAL mode, and large values in files beside it."""

from .storage import SqliteStorage

__all__ = ["SqliteStorage"]
