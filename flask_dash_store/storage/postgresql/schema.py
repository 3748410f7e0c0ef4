"""The tables and functions of the PostgreSQL storage: how they are created, and how the functions are called.

Each call of the storage is one function, and so one round trip. Nothing is set on a connection, because each
transaction may get another one from a PgBouncer that pools transactions (https://www.pgbouncer.org/features.html). So
functions have their own settings, names outside of functions are qualified, and locks end with their transaction.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple, Self

from ...buffers import Buffers, Stored, size_of
from ...errors import ConfigurationError, UnknownFormat, ValueTooLarge
from ..statistics import columns_of_spread
from .connection import Target
from .transaction import Database

# The version of the tables and functions. Raise it with any change of them.
FORMAT = 2

# A value is one message of the protocol, and one field of a table. Both must be less than 1 GiB, including the key.
MAX_VALUE_BYTES = 2**30 - 2**16

_FILES = ("tables.sql", "reading.sql", "writing.sql", "maintaining.sql")

# Every statement must use an index, whatever the tables contained when it was planned. And only a plain index scan
# marks the entries of dead rows, so that the next one skips them.
_SETTINGS = "SET search_path FROM CURRENT SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off"

# The arguments of each function. For functions about one owner, the first one is an access.
_ACCESS = "ROW(%s, %b, %s, %s, %s, {timeout_ms}, {is_durable})::{schema}.access"
_ARGUMENTS = {
    "get_value": [_ACCESS, "%b"],
    "has_value": [_ACCESS, "%b"],
    "list_keys": [_ACCESS, "%s", "%s"],
    "list_values": [_ACCESS],
    "describe_values": [_ACCESS],
    "stat_session": [_ACCESS],
    "list_sessions": ["%b", "%s"],
    "list_owners": ["%s", "%s"],
    "list_all_owners": ["%s"],
    "dump_session": ["%s"],
    "find_problems": [],
    "touch_session": [_ACCESS],
    "put_value": [_ACCESS, "%b", "%b", "%s", "%b", "%s", "%s", "%s", "%s"],
    "put_values": [_ACCESS, "%b", "%b", "%s", "%b", "%s", "%s", "%s"],
    "expire_value": [_ACCESS, "%b", "%s"],
    "delete_value": [_ACCESS, "%b"],
    "clear_session": [_ACCESS],
    "renew_session": [_ACCESS, "%b", "%b"],
    "end_session": [_ACCESS],
    "replace_session": ["%s", "%b", "%s", "%b", "%s", "%s"],
    "maintain": ["%s", "%s", "%s", "%s", "%s", "%s", "%s"],
}

# Rarely used, so it does not need the settings of a function.
_FIND_SESSION = """
    SELECT session, renewed_at FROM {schema}.sessions
    WHERE left(owner, 256) = left(%s, 256) AND owner = %s"""

# Its rows begin like those of a function about one owner.
_LIST_VERSIONS = """
    SELECT s.expires, CASE WHEN s.session IS DISTINCT FROM %b THEN COALESCE(s.renewed_at, s.created_at) END,
        v.key, substring(v.payload FROM greatest(octet_length(v.payload) - %s + 1, 1))
    FROM {schema}.sessions s LEFT JOIN {schema}."values" v
        ON v.session = s.id AND (v.expires IS NULL OR v.expires > %s) AND {condition}
    WHERE left(s.owner, 256) = left(%s, 256) AND s.owner = %s"""

# For operators only. They scan all sessions, but no values.
_IS_LIVE = "expires > %(now)s"
_IS_THERE = f"{_IS_LIVE} AND (keys > 0 OR left(owner, 2) <> 'u.')"
_TOTALS = f"""
    SELECT count(*) FILTER (WHERE is_live AND is_session), count(*) FILTER (WHERE is_live AND is_user AND keys > 0),
        COALESCE(sum(bytes) FILTER (WHERE is_live AND (is_session OR is_user)), 0)::bigint,
        COALESCE(sum(keys) FILTER (WHERE is_live AND (is_session OR is_user)), 0)::bigint,
        min(created_at) FILTER (WHERE is_live AND (is_session OR is_user)),
        count(*) FILTER (WHERE is_live AND is_session AND created_at > %(now)s - 3600),
        count(*) FILTER (WHERE is_live AND is_session AND created_at > %(now)s - 86400),
        count(*) FILTER (WHERE NOT is_live), count(*) FILTER (WHERE expires IS NULL)
    FROM (
        SELECT *, {_IS_LIVE} AS is_live, left(owner, 2) = 's.' AS is_session, left(owner, 2) = 'u.' AS is_user
        FROM {{schema}}.sessions
    ) s"""
_LARGEST = f"""
    SELECT owner, created_at, expires, bytes, keys FROM {{schema}}.sessions
    WHERE {_IS_THERE} AND left(owner, 2) IN ('s.', 'u.') ORDER BY bytes DESC, owner LIMIT %(limit)s"""
# A page past the end has one row, of the total.
_COUNTS = columns_of_spread("bytes", "created_at", "expires", "%(now)s")
_SPREAD = f"""
    SELECT count(*), {", ".join(f"count(*) FILTER (WHERE {column})" for column in _COUNTS)}
    FROM {{schema}}.sessions WHERE {_IS_LIVE} AND left(owner, 2) = 's.'"""
_FIND_OWNERS = f"""
    WITH found AS MATERIALIZED (
        SELECT owner, created_at, expires, bytes, keys FROM {{schema}}.sessions
        WHERE {_IS_THERE} AND starts_with(owner, %(prefix)s) AND owner ~* %(pattern)s
    )
    SELECT total, page.* FROM (SELECT count(*) AS total FROM found) counted
    LEFT JOIN (SELECT * FROM found ORDER BY {{order}}, owner LIMIT %(limit)s OFFSET %(offset)s) page ON true
    ORDER BY {{order}}, owner"""
_ORDERS = {"newest": "created_at DESC", "oldest": "created_at", "largest": "bytes DESC", "expiring": "expires"}
_SPACE = """
    SELECT pg_total_relation_size('{schema}.sessions'::regclass)
        + pg_total_relation_size('{schema}."values"'::regclass)"""

# Not even IF NOT EXISTS is safe if several processes create the same object at once.
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('flask_dash_store', 0))"


def statements(target: Target, timeout_ms: int, is_durable: bool) -> dict[str, str]:
    """The SQL that calls each function, by its name, and the queries without functions."""
    schema = target.quoted_schema.replace("%", "%%")
    calls = {
        name: f"SELECT * FROM {schema}.{name}({', '.join(arguments)})".format(
            timeout_ms=timeout_ms, is_durable=is_durable, schema=schema
        )
        for name, arguments in _ARGUMENTS.items()
    }
    find_owners = {
        f"find_owners_{order}": _FIND_OWNERS.format(schema=schema, order=column) for order, column in _ORDERS.items()
    }
    return (
        calls
        | find_owners
        | {
            "totals": _TOTALS.format(schema=schema),
            "spread": _SPREAD.format(schema=schema),
            "largest": _LARGEST.format(schema=schema),
            "space": _SPACE.format(schema=schema.replace("'", "''")),
            "find_session": _FIND_SESSION.format(schema=schema),
            "list_all_versions": _LIST_VERSIONS.format(schema=schema, condition="true"),
            "list_versions": _LIST_VERSIONS.format(schema=schema, condition="v.key = ANY(%b::bytea[])"),
        }
    )


class NewRow(NamedTuple):
    """The columns of a value, in the order of the functions' arguments."""

    key: bytes
    payload: bytes
    buffers_name: str | None
    buffers: bytes | memoryview | None

    @classmethod
    def of(cls, key: str, value: Stored) -> Self:
        """The row of a value.

        :raises ValueTooLarge: if PostgreSQL cannot store a value of this size
        """
        payload, buffers = value
        nbytes = size_of(value)
        if nbytes > MAX_VALUE_BYTES:
            raise ValueTooLarge(
                f"The value for {key!r} takes {nbytes:,} bytes; PostgreSQL stores at most {MAX_VALUE_BYTES:,} in a "
                "field. Store it under several keys.",
                key=key,
                limit=MAX_VALUE_BYTES,
            )
        if buffers is None:
            return cls(key.encode(), payload, None, None)
        return cls(key.encode(), payload, buffers.name, buffers.joined())

    @property
    def nbytes(self) -> int:
        return len(self.key) + len(self.payload) + (0 if self.buffers is None else len(self.buffers))


def stored(payload: bytearray, buffers_name: str | None, buffers: bytearray | None) -> Stored:
    """The value of a row, as it was written."""
    if buffers_name is None or buffers is None:
        return bytes(payload), None
    return bytes(payload), Buffers(buffers_name, [memoryview(buffers)])


def make_tables(database: Database, target: Target) -> None:
    """Create the schema, its tables and its functions, unless they exist.

    :raises ConfigurationError: if the default isolation level is stricter than READ COMMITTED
    :raises UnknownFormat: if another version of the package has created the tables
    """
    if _has_tables(database, target):
        return
    with database.transaction_after(_ONE_AT_A_TIME):
        # Even with IF NOT EXISTS, CREATE SCHEMA needs the right to create one.
        if not database.select("SELECT 1 FROM pg_namespace WHERE nspname = %s", [target.schema]):
            database.execute(f"CREATE SCHEMA {target.quoted_schema}")
        if not _has_tables(database, target):
            sql = [(files(__package__) / name).read_text("utf-8") for name in _FILES]
            database.execute(f"SET LOCAL search_path = {target.quoted_schema}")
            database.execute("\n".join(sql).replace(":settings", _SETTINGS))
            database.execute(f"INSERT INTO format VALUES ({FORMAT})")


def _has_tables(database: Database, target: Target) -> bool:
    table = f"{target.quoted_schema}.format"
    query = "SELECT to_regclass(%s) IS NOT NULL, current_setting('default_transaction_isolation')"
    ((exists, isolation),) = database.select(query, [table])
    if isolation != "read committed":
        raise ConfigurationError(
            f"The {target.name} has the default_transaction_isolation {isolation!r}, but the store needs 'read "
            "committed'. Set it for the user of USER_STORE_URL (url=): ALTER ROLE ... SET "
            "default_transaction_isolation = 'read committed'."
        )
    if not exists:
        return False
    ((number,),) = database.select(f"SELECT max(number) FROM {table}")
    if number != FORMAT:
        raise UnknownFormat(
            f"The {target.name} has format {number}, but this version of flask_dash_store reads format {FORMAT}. Use "
            "the version that created it, or another schema= in USER_STORE_URL (url=)."
        )
    return True
