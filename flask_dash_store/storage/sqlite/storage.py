"""The default storage: sqlitedict tables in one SQLite file in WAL mode, and large values in files beside it."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from ...owner import Owner
from ..base import (
    DEFAULT_LIMITS,
    DEFAULT_TIMEOUT,
    Expired,
    ExpiryLimit,
    Limits,
    Progress,
    Removed,
    SupportsBackup,
    Synchronous,
    no_progress,
)
from ..statistics import Totals
from . import schema
from .backup import Backup
from .buffer_files import BufferFiles, buffers_beside
from .connection import Errors, connect, use_wal
from .database import Database
from .files import FileIdentity, TemporaryDirectory, check_private_directory, make_private, prepare_private_file
from .filesystem import check_filesystem
from .maintenance import Maintenance
from .pool import Pool
from .reader import end_of
from .reserve import Reserve
from .statistics import Counter
from .system import boot_id


class SqliteStorage(Counter, SupportsBackup):
    """Values in a SQLite file.

    :param path: the file; None for a temporary one, which is deleted with the process
    :param limits: how much one owner may store
    :param timeout: seconds that a call waits for other writers
    :param synchronous: with ``"FULL"``, acknowledged writes survive a power loss. With ``"NORMAL"``, it may lose the
        last ones, but the file stays consistent (https://www.sqlite.org/pragma.html#pragma_synchronous).
    :raises StorageError: if the file cannot be opened, or is where SQLite's WAL mode is not safe
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        limits: Limits = DEFAULT_LIMITS,
        timeout: float = DEFAULT_TIMEOUT,
        synchronous: Synchronous = "NORMAL",
    ) -> None:
        self._limits = limits
        self._written = set()
        self._checked = set()
        self._temporary = TemporaryDirectory() if path is None else None
        self._boot = boot_id()
        self._reserve: Reserve | None = None
        file = self._temporary.path / "values.sqlite" if self._temporary else Path(str(path))
        self._open_file(file, timeout, synchronous)
        self._freeing(self._prepare)
        self._maintenance = Maintenance(self._database, self._buffers)
        self._backup = Backup(self._database, self._buffers, self.filename)
        self._pool.close_idle()  # For servers that fork in C, without Python's hooks.

    def _open_file(self, file: Path, timeout: float, synchronous: Synchronous) -> None:
        self.filename = str(prepare_private_file(file))
        check_filesystem(self.filename)
        check_private_directory(buffers_beside(self.filename))
        connector = partial(connect, self.filename, synchronous)
        self._pool = Pool(connector, f"storage {self.filename}", timeout, FileIdentity(self.filename))
        self._database = Database(self, self._pool)
        self._buffers = BufferFiles(buffers_beside(self.filename), sync=synchronous == "FULL")
        if self._temporary:
            weakref.finalize(
                self, self._pool.close
            )  # Before the directory is deleted: Windows does not delete open files.
        else:
            self._reserve = Reserve(f"{self.filename}-reserve", timeout)

    def _prepare(self) -> None:
        connection = self._pool.acquire()
        try:
            use_wal(connection, self.filename)
        except Errors as error:
            raise self._pool.error(error, connection) from error
        finally:
            self._pool.release(connection)
        self._pool.file.note_wal()  # A new file had no WAL when the first connection was opened.
        make_private(self.filename)
        with self._database.transaction() as transaction:
            schema.make_tables(transaction.execute, self.filename)
        if self._reserve is not None:
            self._reserve.keep()

    # Maintenance, transactions, and the end

    @property
    def needs_maintenance(self) -> bool:
        return self._has_deleted or self._database.checkpoints.is_due

    def maintain(
        self,
        now: float,
        ended_before: float,
        expiry_limit: ExpiryLimit | None = None,
        wait: bool = False,
        expired: Expired | None = None,
    ) -> Removed:
        self._has_deleted = False
        self._database.checkpoints.make_if_due()
        if expiry_limit is not None:
            prefix, latest = expiry_limit
            args = {"prefix": prefix, "end": end_of(prefix), "latest": latest}
            self._database.change(schema.LIMIT_EXPIRY, args)
        removed = self._freeing(lambda: self._maintenance.run(now, max(ended_before, 0.0), wait, expired))
        if self._reserve is not None and not removed.has_more:
            self._reserve.keep()
        return removed

    def transaction(self, owner: Owner) -> AbstractContextManager[object]:  # noqa: ARG002
        # SQLite locks the whole database, so this blocks the writers of all owners.
        return self._database.transaction()

    def close(self) -> None:
        self._database.close()
        if self._temporary:
            self._temporary.remove()

    # Backup

    def back_up(self, target: Path, progress: Progress = no_progress) -> list[str]:
        return self._backup.write(target, progress)

    def inspect_backup(self, source: Path, now: float) -> Totals:
        return self._backup.inspect(source, now)

    def restore(self, source: Path, progress: Progress = no_progress) -> None:
        self._backup.restore(source, progress)
