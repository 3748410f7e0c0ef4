"""The two tables, made by sqlitedict's own class, so that any tool that reads sqlitedict's tables reads these.

Stock sqlitedict sends each statement through a queue to one thread, which raises an error in another caller's next
call, hangs after a fork or a failed COMMIT, and turns ``synchronous`` off. The class asks little of its connection, so
here it gets the transaction in which the file is made ready.
"""

from __future__ import annotations

from typing import Any

from sqlitedict import SqliteDict, identity

from . import schema
from .transaction import Transaction


def make_tables(transaction: Transaction, filename: str) -> None:
    """Make the tables, their indexes and triggers, unless they are there."""
    if transaction.execute("PRAGMA user_version") == [(schema.FORMAT,)]:
        return
    for name, columns in schema.COLUMNS.items():
        _Table(transaction, filename, name).close()
        for column in columns:
            transaction.execute(f'ALTER TABLE "{name}" ADD COLUMN {column}')
    for statement in (*schema.INDEXES, *schema.TRIGGERS):
        transaction.execute(statement)
    transaction.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    transaction.execute(f"PRAGMA user_version = {schema.FORMAT}")


class _Table(SqliteDict):  # type: ignore[misc]  # sqlitedict has no type hints
    def __init__(self, transaction: Transaction, filename: str, name: str) -> None:
        self._transaction = transaction
        super().__init__(
            filename, tablename=name, autocommit=True, journal_mode="WAL", encode=identity, decode=identity
        )

    def _new_conn(self) -> _TableConnection:
        return _TableConnection(self._transaction)


class _TableConnection:
    """What SqliteDict calls a connection, of which it asks this much when it makes a table."""

    autocommit = True

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def execute(self, sql: str, args: tuple[Any, ...] = ()) -> None:
        self._transaction.execute(sql, args)

    def commit(self, blocking: bool = True) -> None:
        """The transaction commits."""

    def close(self, force: bool = False) -> None:
        """The connection is the transaction's."""
