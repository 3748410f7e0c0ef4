"""The tables of a PostgreSQL storage, made by the first process to come."""

from __future__ import annotations

from ...errors import UnknownFormat
from .connection import Target
from .schema import FORMAT, FUNCTIONS, TABLES
from .transaction import Database

# Not even IF NOT EXISTS is safe when several make the same thing at once.
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('flask_dash_store', 0))"


def make_tables(database: Database, target: Target) -> None:
    """Make the schema, its tables and its functions, unless they are there.

    :raises UnknownFormat: when they are, and not such as this version of the package makes
    """
    if _has_tables(database, target):
        return
    with database.transaction_after([_ONE_AT_A_TIME]) as transaction:
        # To say IF NOT EXISTS takes the right to create one even where there is one.
        if not transaction.execute("SELECT 1 FROM pg_namespace WHERE nspname = %(name)s", {"name": target.schema}):
            transaction.execute(f"CREATE SCHEMA {target.quoted_schema}")
        if not _has_tables(database, target):
            transaction.execute(TABLES + FUNCTIONS)


def _has_tables(database: Database, target: Target) -> bool:
    (exists,) = database.call("SELECT to_regclass('format') IS NOT NULL", {})
    if not exists:
        return False
    number = database.call("SELECT max(number) FROM format", {})[0]
    if number != FORMAT:
        raise UnknownFormat(
            f"The {target.name} is of format {number}, and this version of flask_dash_store knows {FORMAT}. It is left "
            "as it is: use the newer version, or another schema= in USER_STORE_URL (url=)."
        )
    return True
