"""All of an owner, out of the SQLite storage and into it, as :meth:`Storage.dump` and its kin promise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ...buffers import Stored
from ...errors import StorageCorrupt
from ..base import Dump, Value
from ..expiry import is_ended
from . import schema
from .account import measure
from .buffers import BufferStore
from .database import Database
from .purging import forget_files
from .transaction import Row, Transaction


class Dumping:
    """:param boot: names the time since the machine was started"""

    def __init__(self, database: Database, buffers: BufferStore, boot: str) -> None:
        self._database = database
        self._buffers = buffers
        self._boot = boot

    def everyone(self) -> Iterator[str]:
        last = ""
        while rows := self._database.select(schema.EVERYONE, (last,)):
            for (last,) in rows:
                yield last

    def dump(self, owner: str) -> Dump | None:
        # Nobody may replace a body between the row that names it and the look at its file.
        with self._database.transaction() as transaction:
            session = transaction.execute(schema.SESSION, (owner,))
            if not session:
                return None
            expiry = session[0][0]
            if is_ended(expiry):
                return Dump(-expiry, -expiry, [])
            rows = transaction.execute(schema.DUMP, {"owner": owner})
            found = [self._dump_value(owner, row) for row in rows]
        values = [each for each in found if isinstance(each, tuple)]
        damaged = tuple(each for each in found if isinstance(each, str))
        return Dump(float(expiry) if isinstance(expiry, (float, int)) else 0.0, None, values, damaged)

    def _dump_value(self, owner: str, row: Row) -> Value | str | None:
        """A value, or its key if it is damaged; None if a power loss has taken it, as it may what was written last."""
        place, payload, key_expires, file, boot = row
        key: str = place[len(owner) + 1 :]
        if file is None:
            return key, (payload, None), key_expires
        is_same_boot = boot == self._boot
        try:
            body = self._buffers.read(file, may_be_torn=not is_same_boot)
        except StorageCorrupt:
            return key
        if body is None:
            return key if is_same_boot else None
        return key, (payload, body), key_expires

    def load(self, owner: str, dump: Dump) -> None:
        bodies = [body for _, (_, body), _ in dump.values if body is not None]
        for body in bodies:
            self._buffers.write(body)
        names = {body.name for body in bodies}
        with self._database.transaction() as transaction:
            rows = transaction.execute(schema.CLEAR, (owner, owner))
            replaced = [row for row in rows if row[0] not in names]
            forget_files(transaction, self._buffers, replaced)
            transaction.then(on_rollback=partial(self._buffers.remove, names - {file for (file,) in rows}))
            for key, stored, key_expires in dump.values:
                self._load_value(transaction, f"{owner}/{key}", stored, key_expires)
            expiry = -dump.ended_at if dump.ended_at is not None else dump.expires
            transaction.execute(schema.PUT_SESSION, (owner, expiry, *measure(transaction, owner)))

    def _load_value(self, transaction: Transaction, place: str, stored: Stored, key_expires: float | None) -> None:
        payload, body = stored
        file, nbytes, boot = (None, 0, None) if body is None else (body.name, body.nbytes, self._boot)
        transaction.execute(schema.PUT, (place, payload, key_expires, file, nbytes, boot))
