"""Backs up a SQLite storage while it is in use, and restores it.

A backup is a storage itself: a database file, and beside it the directory with the buffers of large values. Copying the
files by other means while they are in use would corrupt the copy
(https://www.sqlite.org/howtocorrupt.html, sections 1.2 and 1.3).
"""

from __future__ import annotations

import os
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import apsw

from ...buffers import NAME_BYTES
from ...errors import StorageError
from ..base import ENDED, Progress
from ..statistics import Totals
from . import schema
from .buffer_files import HELD, BufferFiles, buffers_beside, copy_file, sync_directory
from .connection import connect
from .database import Database, Transaction
from .files import prepare_private_file
from .maintenance import remove_files_on_commit
from .schema import PAGE_BYTES
from .statistics import args_of_totals

PAGES_PER_CALL = 1000
STEPS_PER_REPORT = 1000


class Backup:
    """Backs up and restores one storage.

    :param filename: the storage's database file
    """

    def __init__(self, database: Database, buffers: BufferFiles, filename: str) -> None:
        self._database = database
        self._buffers = buffers
        self._filename = filename
        self._directory = buffers_beside(filename)

    def write(self, target: Path, progress: Progress) -> list[str]:
        """Copy what is stored at one point in time, while others read and write.

        :param progress: called with how many bytes are copied, and how many there are
        :returns: the values that were left out because they are damaged, each as ``owner/key``
        :raises StorageError: if the target exists, or cannot be written
        """
        buffers = buffers_beside(target)
        if not target.parent.is_dir():
            raise StorageError(f"The directory {target.parent} of the backup does not exist. Create it first.")
        if target.exists() or buffers.exists():
            raise StorageError(f"{target} or {buffers.name} beside it already exists. Name a new file.")
        unfinished = prepare_private_file(target.with_name(f"{target.name}.{uuid.uuid4().hex}"))
        held = self._directory / f"{HELD}{uuid.uuid4().hex}"
        try:
            with self._database.snapshot(lambda: self._hold_buffers(held)) as connection:
                nbytes = sum(file.stat().st_size for file in held.iterdir()) if held.exists() else 0
                pages = _copy_pages(connection, unfinished, lambda done, total: progress(done, total + nbytes))
            if held.exists():
                _copy_buffers(held, buffers, progress=lambda done: progress(pages + done, pages + nbytes))
            damaged = _leave_out_damaged(unfinished, buffers)
            os.rename(unfinished, target)
        except BaseException as error:
            shutil.rmtree(buffers, ignore_errors=True)
            if isinstance(error, OSError) and not isinstance(error, StorageError):  # StorageBusy is an OSError too.
                raise StorageError(f"The backup {target} could not be written: {error.strerror}.") from error
            raise
        finally:
            unfinished.unlink(missing_ok=True)
            shutil.rmtree(held, ignore_errors=True)
        return damaged

    def _hold_buffers(self, held: Path) -> None:
        """Add links to the current buffers, which are unlinked when their values are replaced."""
        rows = self._database.select(schema.KEPT_FILES)
        if rows:
            held.mkdir(mode=0o700, parents=True)
        for _, name in rows:
            with suppress(FileNotFoundError):
                os.link(self._directory / name, held / name)

    def inspect(self, source: Path, now: float) -> Totals:
        """Check that a backup is complete, and say how much it contains.

        :raises StorageError: if there is no backup, or it cannot be read
        """
        with self._opened(source) as copy:
            rows: list[Any] = copy.execute(schema.TOTALS, args_of_totals(now)).fetchall()
            return Totals(*rows[0])

    def restore(self, source: Path, progress: Progress) -> None:
        """Replace everything that is stored by the contents of a backup. Other processes see it at once.

        A session that has ended since the backup stays ended, and one that has got another id keeps it.

        :param progress: called with how many rows and files are restored, and how many there are
        :raises StorageError: if there is no backup, or it cannot be read; then nothing has changed
        """
        with self._opened(source) as copy:
            self._restore(source.resolve(), copy, progress)

    @contextmanager
    def _opened(self, source: Path) -> Iterator[apsw.Connection]:
        """A connection to a backup, after checking that it is complete.

        :raises StorageError: if there is none, or it cannot be read
        """
        if not source.is_file() or source.samefile(self._filename):
            raise StorageError(f"{source} is not a backup of {self._filename}.")
        source = source.resolve()
        try:
            copy = connect(str(source), synchronous="FULL", timeout=0.0).sqlite
            try:
                _check_whole(source, copy)
                yield copy
            finally:
                copy.close(True)
        except StorageError:
            raise  # StorageBusy is an OSError, too.
        except apsw.Error as error:
            raise StorageError(f"The backup {source} cannot be read: {error}.") from error
        except OSError as error:
            raise StorageError(f"The backup {source} cannot be restored: {error.strerror}.") from error

    def _restore(self, source: Path, copy: apsw.Connection, progress: Progress) -> None:
        # Under new names: existing files with the old names may be unlinked before their rows are restored.
        names = {name: secrets.token_hex(NAME_BYTES) for _, name in copy.execute(schema.KEPT_FILES)}
        rows = copy.execute(schema.COUNT_ROWS).get
        step = _steps(int(str(rows)) + len(names), progress)
        try:
            if names:
                _copy_buffers(buffers_beside(source), self._directory, names, lambda _: step())
            with self._database.transaction() as transaction:
                self._replace_all(transaction, copy, names, step)
        except BaseException:
            self._buffers.remove(names.values())
            raise

    def _replace_all(
        self, transaction: Transaction, copy: apsw.Connection, names: dict[str, str], step: Callable[[], object]
    ) -> None:
        renewed = transaction.execute(schema.ALL_RENEWED)
        remove_files_on_commit(transaction, self._buffers, transaction.execute(schema.NAMED_FILES))
        for statement in schema.DELETE_ALL:
            transaction.execute(statement)
        for session in copy.execute(
            schema.ALL_SESSIONS
        ):  # Before the values, because triggers add these to the counts.
            transaction.execute(schema.LOAD_SESSION, session)
            step()
        for name_and_key, value, expires, file, nbytes, boot in copy.execute(schema.ALL_VALUES):
            transaction.execute(schema.PUT, (name_and_key, value, expires, names.get(file), nbytes or 0, boot))
            step()
        for name, session, renewed_at, created, user in renewed:
            if session == ENDED:
                remove_files_on_commit(transaction, self._buffers, transaction.execute(schema.CLEAR, {"owner": name}))
                transaction.execute(schema.END, (name, renewed_at))
            else:
                transaction.execute(schema.KEEP_ID, (name, session, renewed_at, created, user))


def _check_whole(source: Path, copy: apsw.Connection) -> None:
    problem = copy.execute("PRAGMA quick_check(1)").get
    if problem != "ok":
        raise StorageError(f"The backup {source} is damaged: {problem}.")
    buffers = BufferFiles(buffers_beside(source), sync=False)
    for _, name in copy.execute(schema.KEPT_FILES):
        if buffers.read(str(name), may_be_torn=True) is None:
            raise StorageError(f"The backup {source} is incomplete: {name} is missing or damaged.")


def _leave_out_damaged(file: Path, buffers: Path) -> list[str]:
    """Delete rows that count as deleted from a backup, and values without their buffers. Returns the latter."""
    kept = BufferFiles(buffers, sync=False)
    copy = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        copy.pragma("secure_delete", "ON")
        copy.execute(schema.DELETE_DELETED).fetchall()
        rows = copy.execute(schema.KEPT_FILES).fetchall()
        damaged = [str(name) for name, file in rows if kept.read(str(file), may_be_torn=True) is None]
        for name in damaged:
            copy.execute(schema.DELETE, (name,)).fetchall()
        copy.execute("PRAGMA incremental_vacuum").fetchall()
    finally:
        copy.close(True)
    return damaged


def _steps(total: int, progress: Progress) -> Callable[[], None]:
    """A function to call after each of so many steps. It reports some of them."""
    done = count(1)

    def step() -> None:
        number = next(done)
        if number % STEPS_PER_REPORT == 0 or number == total:
            progress(number, total)

    return step


def _copy_pages(source: apsw.Connection, target: Path, progress: Progress) -> int:
    """Copy a database. Returns its size in bytes."""
    destination = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
    nbytes = 0
    try:
        with destination.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(PAGES_PER_CALL)
                nbytes = backup.page_count * PAGE_BYTES
                progress(nbytes - backup.remaining * PAGE_BYTES, nbytes)
    except apsw.Error as error:
        raise StorageError(f"The backup {target} could not be written: {error}.") from error
    finally:
        destination.close(True)
    return nbytes


def _copy_buffers(
    source: Path,
    target: Path,
    names: Mapping[str, str] | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Copy the files of buffers.

    :param names: which files to copy, and their new names; None for all, without renaming
    :param progress: called after each file with how many bytes are copied
    """
    target.mkdir(mode=0o700, exist_ok=True)
    nbytes = 0
    for name in names or os.listdir(source):
        copied = target / (names[name] if names else name)
        copy_file(source / name, copied)
        nbytes += copied.stat().st_size
        progress(nbytes)
    sync_directory(target)
