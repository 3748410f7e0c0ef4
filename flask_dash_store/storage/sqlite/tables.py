"""sqlitedict's tables over direct connections.

Stock sqlitedict sends each statement through a queue to one thread, which raises an error in somebody else's next
call, hangs after a fork or a failed COMMIT, and turns ``synchronous`` off. The class asks little of its connection,
so another one mends that, and the tables stay such as any sqlitedict opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlitedict import SqliteDict, identity

from .database import Database
from .transaction import Bindings, Row


class TableConnection:
    """What SqliteDict calls a connection: each statement runs in the caller's thread, and raises there."""

    autocommit = True

    def __init__(self, database: Database) -> None:
        self._database = database

    def execute(self, sql: str, args: Bindings = ()) -> None:
        with self._database.transaction() as transaction:
            transaction.execute(sql, args)

    def executemany(self, sql: str, items: Iterable[Bindings]) -> None:
        with self._database.transaction() as transaction:
            for args in items:
                transaction.execute(sql, args)

    def select(self, sql: str, args: Bindings = ()) -> Iterator[Row]:
        return iter(self._database.select(sql, args))

    def select_one(self, sql: str, args: Bindings = ()) -> Row | None:
        return self._database.select_one(sql, args)

    def commit(self, blocking: bool = True) -> None:
        """Nothing is left to commit: each statement was, or the transaction that it joined will be."""

    def close(self, force: bool = False) -> None:
        """The connections belong to the storage, which closes them."""


class Table(SqliteDict):  # type: ignore[misc]  # sqlitedict has no type hints
    """A sqlitedict table in the storage's database.

    :param filename: the file, for sqlitedict's own messages; the table is reached through the database
    :param columns: SQL for columns that it has beside sqlitedict's ``key`` and ``value``
    """

    def __init__(self, database: Database, filename: str, name: str, columns: str) -> None:
        self._database = database
        with database.transaction() as transaction:
            transaction.execute(f'CREATE TABLE IF NOT EXISTS "{name}" (key TEXT PRIMARY KEY, value BLOB, {columns})')
        # Values pass as they are stored, for nothing may be unpickled before it is authenticated.
        super().__init__(
            filename, tablename=name, autocommit=True, journal_mode="WAL", encode=identity, decode=identity
        )

    def _new_conn(self) -> TableConnection:
        return TableConnection(self._database)

    def __setitem__(self, key: str, value: Any) -> None:
        # sqlitedict's REPLACE deletes the row and inserts it again: slower, and the key would lose its place.
        self.conn.execute(
            f'INSERT INTO "{self.tablename}" (key, value) VALUES (?, ?) '
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (self.encode_key(key), self.encode(value)),
        )
