"""The default storage: sqlitedict tables in one SQLite file in WAL mode, and large values in files beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from ...buffers import Buffers, Stored
from ...errors import StorageFull, UserStoreError
from ...expiry import Access
from ..base import Dump, KeyExpiry, ReSign, Synchronous
from ..expiry import is_ended
from ..limits import DEFAULT_MAX_BYTES, DEFAULT_MAX_KEYS, DEFAULT_TIMEOUT, Limits
from . import schema
from .account import Account, clear, measure
from .backup import Backup
from .buffers import BufferFiles, BuffersInMemory, BufferStore, boot_id, buffers_beside
from .checking import problems
from .connecting import connect, use_wal
from .database import Database
from .dumping import Dumping
from .files import TemporaryDirectory, check_private_directory, close_to_others, prepare_private_file
from .filesystem import check_filesystem
from .format import check_tables, upgrade
from .identity import FileIdentity
from .pool import Connect, MemoryPool, Pool
from .purging import Purging
from .reading import Reading, end_of
from .reserve import Reserve
from .tables import Table

T = TypeVar("T")


class SqliteStorage(Reading):
    """Values in a SQLite file, in memory, or in a file that goes away with the process.

    :param path: the file, ``":memory:"``, or None for a temporary file
    :param max_bytes: how many bytes the keys and payloads of one owner may take
    :param max_keys: how many keys one owner may have
    :param timeout: seconds that a call waits for other writers
    :param synchronous: ``"FULL"`` to keep acknowledged writes through a power loss; ``"NORMAL"`` may lose the
        last ones, and is always consistent (https://www.sqlite.org/pragma.html#pragma_synchronous)
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_keys: int = DEFAULT_MAX_KEYS,
        timeout: float = DEFAULT_TIMEOUT,
        synchronous: Synchronous = "NORMAL",
    ) -> None:
        self._limits = Limits(max_bytes, max_keys)
        self._temporary = TemporaryDirectory() if path is None else None
        self._boot = boot_id()
        self._file: FileIdentity | None = None
        self._reserve: Reserve | None = None
        if path == ":memory:":
            self._open_memory(timeout, synchronous)
        else:
            file = self._temporary.path / "values.sqlite" if self._temporary else Path(str(path))
            self._open_file(file, timeout, synchronous)
        self._freeing(lambda: self._prepare(timeout))
        self._purging = Purging(self._database, self._buffers)
        self._backup = Backup(self._database, self._buffers, self.filename)
        self._dumping = Dumping(self._database, self._buffers, self._boot)

    def _open_memory(self, timeout: float, synchronous: Synchronous) -> None:
        self.filename = ":memory:"
        self._database = Database(MemoryPool(self._connector(synchronous), "in memory", timeout))
        self._buffers: BufferStore = BuffersInMemory()

    def _open_file(self, file: Path, timeout: float, synchronous: Synchronous) -> None:
        self.filename = str(prepare_private_file(file))
        check_filesystem(self.filename)
        check_private_directory(buffers_beside(self.filename))
        self._file = FileIdentity(self.filename)
        self._database = Database(Pool(self._connector(synchronous), self.filename, timeout, self._file))
        self._buffers = BufferFiles(buffers_beside(self.filename), sync=synchronous == "FULL")
        if not self._temporary:
            self._reserve = Reserve(f"{self.filename}-reserve")

    def _connector(self, synchronous: Synchronous) -> Connect:
        return lambda: connect(self.filename, synchronous)

    def _prepare(self, timeout: float) -> None:
        check_tables(self._database, self.filename)
        if self._file is not None:
            close_to_others(self.filename)
        use_wal(self._database, self.filename, timeout)
        with self._database.transaction() as transaction:
            upgrade(transaction)
            self.values = Table(self._database, self.filename, "values", schema.VALUES_COLUMNS)
            self.sessions = Table(self._database, self.filename, "sessions", schema.SESSIONS_COLUMNS)
            for index in schema.INDEXES:
                transaction.execute(index)
        if self._file is not None:
            self._file.note_wal()  # A new file had none when the first connection to it was opened.
        if self._reserve is not None:
            self._reserve.keep()

    # Writing

    def set(self, owner: str, key: str, value: Stored, access: Access, key_expires: KeyExpiry = None) -> None:
        payload, body = value
        place = f"{owner}/{key}"
        if body is not None or key_expires is not None or not self._overwrite(owner, place, payload, access):
            self._put(owner, key, value, access, key_expires)

    def _overwrite(self, owner: str, place: str, payload: bytes, access: Access) -> bool:
        now, expires, touch_threshold = access
        blocks = -(-len(payload) // schema.BLOCK)
        args = (payload, place, blocks, owner, now, expires - touch_threshold, expires + touch_threshold)
        return self._database.change(schema.OVERWRITE, args) == 1

    def _put(self, owner: str, key: str, value: Stored, access: Access, key_expires: KeyExpiry) -> None:
        payload, body = value
        place = f"{owner}/{key}"
        file, file_bytes = (body.name, body.nbytes) if body else (None, 0)
        boot = self._boot if body else None
        with self._writing_body(body), self._writing(owner, access) as account:
            if file is not None:
                account.transaction.then(on_rollback=partial(self._buffers.remove, [file]))
            kept = account.make_room(key, schema.charge(len(payload), file_bytes))
            if key_expires == "keep":
                key_expires = kept
            account.transaction.execute(schema.PUT, (place, payload, key_expires, file, file_bytes, boot))
            account.record_use()

    @contextmanager
    def _writing_body(self, body: Buffers | None) -> Iterator[None]:
        """Write a body before a transaction begins, and remove it if none does. Then it is the transaction's."""
        if body is not None:
            self._buffers.write(body)
        try:
            yield
        except UserStoreError:
            if body is not None:
                self._buffers.remove([body.name])
            raise

    def expire(self, owner: str, key: str, key_expires: float | None, access: Access) -> bool:
        with self._writing(owner, access) as account:
            is_there = account.has(key)
            if is_there:
                account.transaction.execute(schema.EXPIRE_KEY, (key_expires, f"{owner}/{key}"))
            if account.is_live:
                account.record_use()
            return is_there

    def delete(self, owner: str, key: str, access: Access) -> bool:
        return self._freeing(lambda: self._delete(owner, key, access))

    def _delete(self, owner: str, key: str, access: Access) -> bool:
        with self._writing(owner, access) as account:
            was_there = account.delete(key)
            if account.is_live:
                account.record_use()
            return was_there

    def clear(self, owner: str, access: Access) -> None:
        self._freeing(lambda: self._clear(owner, access))

    def _clear(self, owner: str, access: Access) -> None:
        with self._writing(owner, access) as account:
            if account.is_live:
                account.clear()
                account.record_use()

    @contextmanager
    def _writing(self, owner: str, access: Access) -> Iterator[Account]:
        with self._database.transaction() as transaction:
            yield Account(transaction, self._buffers, self._limits, owner, access)

    # Sessions as a whole

    def move(self, owner: str, new_owner: str, re_sign: ReSign, access: Access) -> None:
        with self._writing(owner, access) as account:
            transaction = account.transaction
            for key, payload, *_ in self._own_values(schema.ITEMS, owner, access):
                place = f"{owner}/{key}"
                transaction.execute(schema.MOVE, (f"{new_owner}/{key}", re_sign(key, payload), place))
            account.clear()
            if account.is_live:
                transaction.execute(schema.PUT_SESSION, (new_owner, access.expires, *measure(transaction, new_owner)))
            transaction.execute(schema.PUT_SESSION, (owner, -access.now, 0, 0))

    def end(self, owner: str, access: Access) -> float:
        rows = self._database.select(schema.SESSION, (owner,))
        if rows and is_ended(rows[0][0]):
            return -float(rows[0][0])  # Whoever comes again and again with a dead id waits for nobody.
        try:
            return self._end(owner, access)
        except StorageFull:
            # The values of one that has ended are out of reach, so it is enough if a purge deletes them.
            return self._freeing(lambda: self._end(owner, access, delete_values=False))

    def _end(self, owner: str, access: Access, delete_values: bool = True) -> float:
        with self._database.transaction() as transaction:
            rows = transaction.execute(schema.SESSION, (owner,))
            if rows and is_ended(rows[0][0]):
                return -float(rows[0][0])
            if delete_values:
                clear(transaction, self._buffers, owner)
            transaction.execute(schema.PUT_SESSION, (owner, -access.now, *measure(transaction, owner)))
            return access.now

    def _freeing(self, work: Callable[[], T]) -> T:
        """Do what frees space. It has the reserve when there is no other."""
        try:
            return work()
        except StorageFull:
            if self._reserve is None or self._database.is_in_transaction():
                raise
            with self._reserve.released():
                try:
                    return work()
                except StorageFull:
                    self._database.checkpoint()
                    return work()

    # Copying

    def everyone(self) -> Iterator[str]:
        return self._dumping.everyone()

    def dump(self, owner: str) -> Dump | None:
        return self._dumping.dump(owner)

    def load(self, owner: str, dump: Dump) -> None:
        self._dumping.load(owner, dump)

    def back_up(self, target: Path) -> list[str]:
        """Copy what is stored at one point in time into a new file, while others read and write.

        :returns: where values are damaged, and left out, each as ``owner/key``
        :raises StorageError: when the file exists, or cannot be written
        """
        return self._backup.write(target)

    def restore(self, source: Path) -> None:
        """Put what such a copy holds in the place of all that is stored. Who was logged out since stays logged out.

        :raises StorageError: when there is no copy, or it cannot be read; nothing has changed
        """
        self._backup.restore(source)

    def problems(self) -> Iterator[str]:
        return problems(self._database, self._buffers)

    # Looking after it

    @property
    def is_untidy(self) -> bool:
        return self._database.is_untidy

    def tidy(self) -> None:
        self._database.tidy()

    def limit_expiry(self, prefix: str, latest: float) -> None:
        span = {"prefix": prefix, "end": end_of(prefix)}
        self._database.change(schema.LIMIT_EXPIRY, span | {"latest": latest})

    def purge(self, now: float, ended_before: float, limit: int, wait: bool = False) -> int:
        removed = self._freeing(lambda: self._purging.owners(now, ended_before, limit, wait))
        if self._reserve is not None:
            self._reserve.keep()
        return removed

    def purge_keys(self, now: float, limit: int, wait: bool = False) -> int:
        return self._freeing(lambda: self._purging.keys(now, limit, wait))

    # Transactions, and the end

    @contextmanager
    def transaction(self, owner: str) -> Iterator[None]:  # noqa: ARG002
        # SQLite locks the database, so this keeps out the writers of all owners, not of this one alone.
        with self._database.transaction():
            yield

    def on_rollback(self, call: Callable[[], None]) -> None:
        self._database.on_rollback(call)

    def close(self) -> None:
        self._database.close()
        if self._temporary:
            self._temporary.remove()
