"""Exports and imports owners of the SQLite storage, and looks for damage."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ...buffers import Stored
from ...errors import StorageCorrupt
from ..base import ENDED, Dump, SupportsExport, Value
from . import schema
from .connection import Row
from .database import Transaction
from .maintenance import remove_files_on_commit
from .writer import Writer

MAX_PROBLEMS = 100


class Exporter(Writer, SupportsExport):
    """The methods of a storage that export and import owners, and look for damage."""

    def all_owners(self) -> Iterator[str]:
        last = ""
        while rows := self._database.select(schema.ALL_OWNERS, (last,)):
            for (last,) in rows:
                yield last

    def dump(self, name: str) -> Dump | None:
        # A transaction, so that no one replaces buffers between reading the row and reading the file.
        with self._database.transaction() as transaction:
            found = transaction.execute(schema.DUMP_SESSION, (name,))
            if not found:
                return None
            expiry, session, renewed, created, user = found[0]
            rows = transaction.execute(schema.DUMP, {"owner": name}) if session != ENDED else []
            values = [self._dump_value(name, row) for row in rows]
        return Dump(
            expires=float(expiry) if isinstance(expiry, (float, int)) else 0.0,
            session=session,
            renewed_at=renewed,
            values=[each for each in values if isinstance(each, tuple)],
            damaged=tuple(each for each in values if isinstance(each, str)),
            user=user,
            created_at=created or 0.0,
        )

    def _dump_value(self, name: str, row: Row) -> Value | str | None:
        """A value; its key if it is damaged; None if a power loss has destroyed it, as it may the last writes."""
        name_and_key, payload, key_expires, file, boot = row
        key: str = name_and_key[len(name) + 1 :]
        if file is None:
            return key, (payload, None), key_expires
        is_same_boot = boot == self._boot
        try:
            buffers = self._buffers.read(file, may_be_torn=not is_same_boot)
        except StorageCorrupt:
            return key
        if buffers is None:
            return key if is_same_boot else None
        return key, (payload, buffers), key_expires

    def load(self, name: str, dump: Dump) -> None:
        loaded = [buffers for _, (_, buffers), _ in dump.values if buffers is not None]
        for buffers in loaded:
            self._buffers.write(buffers)
        names = {buffers.name for buffers in loaded}
        with self._database.transaction() as transaction:
            rows = transaction.execute(schema.CLEAR, {"owner": name})
            remove_files_on_commit(transaction, self._buffers, [row for row in rows if row[0] not in names])
            transaction.on_rollback(partial(self._buffers.remove, names - {file for (file,) in rows}))
            session = (name, dump.expires, dump.session, dump.renewed_at, dump.created_at, dump.user)
            transaction.execute(schema.LOAD_SESSION, session)
            for key, stored, key_expires in dump.values:
                self._load_value(transaction, f"{name}/{key}", stored, key_expires)

    def _load_value(
        self, transaction: Transaction, name_and_key: str, stored: Stored, key_expires: float | None
    ) -> None:
        payload, buffers = stored
        file, nbytes, boot = (None, 0, None) if buffers is None else (buffers.name, buffers.nbytes, self._boot)
        transaction.execute(schema.PUT, (name_and_key, payload, key_expires, file, nbytes, boot))

    def problems(self) -> Iterator[str]:
        try:
            for (problem,) in self._database.select(f"PRAGMA integrity_check({MAX_PROBLEMS})"):
                if problem != "ok":
                    yield f"The database is damaged: {problem}."
            for (name,) in self._database.select(schema.WRONG_COUNTS):
                yield f"The counts of bytes and keys of {name[:10]}… are wrong."
            for name_and_key, file in self._database.select(schema.KEPT_FILES):
                yield from self._problems_of_file(name_and_key, file)
        except StorageCorrupt as error:
            yield str(error)

    def _problems_of_file(self, name_and_key: str, file: str) -> Iterator[str]:
        try:
            is_whole = self._buffers.read(file, may_be_torn=True) is not None
        except StorageCorrupt as error:
            yield str(error)
            return
        if not is_whole and self._database.select(schema.IS_NAMED, (file,)):
            owner, _, key = name_and_key.partition("/")
            yield f"The file {file} of the value stored under {key!r} for {owner[:10]}… is missing or damaged."
