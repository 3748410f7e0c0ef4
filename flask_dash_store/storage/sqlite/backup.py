"""A copy of a SQLite storage that is in use, and a storage put back to what a copy holds.

A copy is a storage itself: a database file, and beside it the directory with the bodies of its large values. To copy
the files by other means, while they are in use, would tear them
(https://www.sqlite.org/howtocorrupt.html, sections 1.2 and 1.3).
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import apsw

from ...errors import StorageError
from . import schema
from .account import clear, measure
from .buffers import BufferFiles, Buffers, buffers_beside, copy_file
from .connecting import connect
from .database import Database
from .files import prepare_private_file
from .purging import forget_files
from .transaction import Transaction


class Backup:
    """Copies one storage.

    :param filename: its database file
    """

    def __init__(self, database: Database, buffers: Buffers, filename: str) -> None:
        self._database = database
        self._buffers = buffers
        self._filename = filename
        self._bodies = buffers_beside(filename)

    def write(self, target: Path) -> None:
        """Copy what is stored at one point in time. Others read and write meanwhile.

        :raises StorageError: when the target exists, or cannot be written
        """
        bodies = buffers_beside(target)
        if target.exists() or bodies.exists():
            raise StorageError(f"{target}, or {bodies.name} beside it, exists already. Name a new file.")
        unfinished = prepare_private_file(target.with_name(f"{target.name}.{uuid.uuid4().hex}"))
        held = Path(f"{self._filename}.backup-{uuid.uuid4().hex}")
        try:
            with self._database.snapshot(lambda: self._hold_bodies(held)) as connection:
                _copy_pages(connection, unfinished)
            if held.exists():
                _copy_bodies(held, bodies)
            os.rename(unfinished, target)
        except StorageError:
            raise  # StorageBusy is an OSError too.
        except OSError as error:
            shutil.rmtree(bodies, ignore_errors=True)
            raise StorageError(f"The backup {target} could not be written: {error.strerror}.") from error
        finally:
            unfinished.unlink(missing_ok=True)
            shutil.rmtree(held, ignore_errors=True)

    def _hold_bodies(self, held: Path) -> None:
        """Keep the bodies of this point in time, for they are unlinked when their values are replaced."""
        names = self._database.select(schema.NAMED_FILES)
        if names:
            held.mkdir(mode=0o700)
        for (name,) in names:
            os.link(self._bodies / name, held / name)

    def restore(self, source: Path) -> None:
        """Put what a copy holds in the place of all that is stored. Others see it at once, when it is done.

        A session that was ended since the copy was made stays ended.

        :raises StorageError: when there is no copy, or it cannot be read; nothing has changed
        """
        if not source.is_file() or source.samefile(self._filename):
            raise StorageError(f"{source} is no backup of {self._filename}.")
        try:
            copy = connect(str(source.resolve()), timeout=0, synchronous="FULL")
            try:
                _check_whole(source, copy)
                if buffers_beside(source).exists():
                    _copy_bodies(buffers_beside(source), self._bodies)
                with self._database.transaction() as transaction:
                    self._replace_all(transaction, copy)
            finally:
                copy.close(True)
        except StorageError:
            raise  # StorageBusy is an OSError too.
        except apsw.Error as error:
            raise StorageError(f"The backup {source} cannot be read: {error}.") from error
        except OSError as error:
            raise StorageError(f"The backup {source} cannot be restored: {error.strerror}.") from error

    def _replace_all(self, transaction: Transaction, copy: apsw.Connection) -> None:
        ended = transaction.execute(schema.ALL_ENDED)
        restored = {name for (name,) in copy.execute(schema.NAMED_FILES)}
        replaced = [row for row in transaction.execute(schema.NAMED_FILES) if row[0] not in restored]
        forget_files(transaction, self._buffers, replaced)
        for statement in schema.DELETE_ALL:
            transaction.execute(statement)
        for row in copy.execute(schema.ALL_VALUES):
            transaction.execute(schema.PUT, row)
        for owner, expiry in copy.execute(schema.ALL_SESSIONS):
            transaction.execute(schema.PUT_SESSION, (owner, expiry, *measure(transaction, owner)))
        for owner, expiry in ended:
            clear(transaction, self._buffers, owner)
            transaction.execute(schema.PUT_SESSION, (owner, expiry, 0, 0))


def _check_whole(source: Path, copy: apsw.Connection) -> None:
    problem = copy.execute("PRAGMA quick_check(1)").get
    if problem != "ok":
        raise StorageError(f"The backup {source} is damaged: {problem}.")
    bodies = BufferFiles(buffers_beside(source), sync=False)
    for (name,) in copy.execute(schema.NAMED_FILES):
        if bodies.read(name, may_be_torn=True) is None:
            raise StorageError(f"The backup {source} is not whole: {name} is missing or damaged.")


def _copy_pages(source: apsw.Connection, target: Path) -> None:
    destination = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        with destination.backup("main", source, "main") as backup:
            backup.step(-1)
    except apsw.Error as error:
        raise StorageError(f"The backup {target} could not be written: {error}.") from error
    finally:
        destination.close(True)


def _copy_bodies(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700, exist_ok=True)
    for body in source.iterdir():
        if not (target / body.name).exists():
            copy_file(body, target / body.name)
