"""The tables of the SQLite storage, and all statements that are run on them.

``values`` maps ``<owner>/<key>`` to the payload, the key's own expiry, and the name and size of the file of its
buffers. An index on what comes before the first ``/`` finds an owner's keys, in the order of insertion, which is the
rowid's.

``sessions`` maps ``<owner>`` to the owner's expiry in seconds since the epoch; the SHA-256 of the session id that opens
its values (NULL for a user id, empty once the session has ended); when it was last renewed or ended; when its first
value was stored; the hash of the user who has logged in; and how many bytes and keys it has. An owner that is only kept
so that its former ids stay dead has the negated time of its last renewal as its expiry. So expired owners, and those to
be forgotten, are one range of one index.

``deleted_up_to`` makes deleting all values of an owner one small write. Rows of the owner up to this rowid count as
deleted, and maintenance removes them, the first ones first. A new row has a larger rowid than all existing ones, and
setting a key that counts as deleted inserts a new row. VACUUM does not change rowids in a table with an index.

Triggers keep the counts. So a write is one statement, and the counts stay right when another program writes with stock
sqlitedict. That uses the SQLite of its Python, so triggers and indexes use nothing newer than SQLite 3.31.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlitedict import SqliteDict, identity

from ...errors import UnknownFormat
from ..name_search import NOT_IN_AN_ESCAPE
from ..statistics import columns_of_spread

Execute = Callable[..., list[tuple[Any, ...]]]

FORMAT = 4
"""The version of this layout, stored as SQLite's ``user_version``."""
APPLICATION_ID = int.from_bytes(b"fds\0")
"""SQLite's ``application_id`` of this package's files."""

PAGE_BYTES = 4096  # SQLite's default.

COLUMNS = {
    "values": ("expires REAL", "file TEXT", "file_bytes INTEGER", "boot TEXT"),
    "sessions": (
        "deleted_up_to INTEGER",
        "session BLOB",
        "renewed REAL",
        "created REAL",
        "user BLOB",
        "bytes INTEGER NOT NULL DEFAULT 0",
        "keys INTEGER NOT NULL DEFAULT 0",
    ),
}
"""The columns of the tables in addition to sqlitedict's ``key TEXT PRIMARY KEY, value BLOB``."""


def _owner_of(row: str = "") -> str:
    return f"substr({row}key, 1, instr({row}key, '/') - 1)"


def _size_of(row: str = "") -> str:
    """The size of a value in bytes: its payload, its buffers, and its key without the owner."""
    return f"({_payload_of(row)} + length(CAST({row}key AS BLOB)) - instr({row}key, '/'))"


def _payload_of(row: str = "") -> str:
    return f"(COALESCE(length({row}value), 0) + COALESCE({row}file_bytes, 0))"


INDEXES = (
    f'CREATE INDEX IF NOT EXISTS "values_by_owner" ON "values" ({_owner_of()})',
    f"""CREATE INDEX IF NOT EXISTS "values_by_owner_and_expiry" ON "values" ({_owner_of()}, expires)
        WHERE expires IS NOT NULL""",
    'CREATE INDEX IF NOT EXISTS "values_by_expiry" ON "values" (expires) WHERE expires IS NOT NULL',
    'CREATE INDEX IF NOT EXISTS "values_by_file" ON "values" (file) WHERE file IS NOT NULL',
    'CREATE INDEX IF NOT EXISTS "sessions_by_expiry" ON "sessions" (value)',
    'CREATE INDEX IF NOT EXISTS "sessions_by_user" ON "sessions" (user) WHERE user IS NOT NULL',
    # Owners with rows that count as deleted, which maintenance removes.
    'CREATE INDEX IF NOT EXISTS "sessions_with_deleted" ON "sessions" (key) WHERE deleted_up_to IS NOT NULL',
)

TRIGGERS = (
    # sqlitedict's REPLACE deletes a row without firing the delete trigger (https://www.sqlite.org/lang_replace.html).
    # This trigger recognizes it by a column that it does not set.
    """CREATE TRIGGER IF NOT EXISTS "replace_value" BEFORE INSERT ON "values" WHEN NEW.file_bytes IS NULL BEGIN
        DELETE FROM "values" WHERE key = NEW.key;
    END""",
    f"""CREATE TRIGGER IF NOT EXISTS "count_insert" AFTER INSERT ON "values" BEGIN
        UPDATE "sessions" SET bytes = bytes + {_size_of("NEW.")}, keys = keys + 1 WHERE key = {_owner_of("NEW.")};
    END""",
    f"""CREATE TRIGGER IF NOT EXISTS "count_update" AFTER UPDATE OF value, file_bytes ON "values"
    WHEN length(NEW.value) IS NOT length(OLD.value) OR NEW.file_bytes IS NOT OLD.file_bytes BEGIN
        UPDATE "sessions" SET bytes = bytes + {_payload_of("NEW.")} - {_payload_of("OLD.")}
        WHERE key = {_owner_of("NEW.")} AND (deleted_up_to IS NULL OR deleted_up_to < NEW.rowid);
    END""",
    f"""CREATE TRIGGER IF NOT EXISTS "count_delete" AFTER DELETE ON "values" BEGIN
        UPDATE "sessions" SET bytes = bytes - {_size_of("OLD.")}, keys = keys - 1
        WHERE key = {_owner_of("OLD.")} AND (deleted_up_to IS NULL OR deleted_up_to < OLD.rowid);
        -- The largest rowid may be reused once its row is gone, by a row that does not count as deleted.
        UPDATE "sessions" SET deleted_up_to = (
            SELECT rowid FROM "values" WHERE {_owner_of()} = {_owner_of("OLD.")} AND rowid < OLD.rowid
            ORDER BY rowid DESC LIMIT 1
        ) WHERE key = {_owner_of("OLD.")} AND deleted_up_to = OLD.rowid;
    END""",
)

_ALL = f"{_owner_of()} = :owner"
_DELETED_UP_TO = 'COALESCE((SELECT deleted_up_to FROM "sessions" WHERE key = :owner), 0)'
_KEPT = f"rowid > {_DELETED_UP_TO}"
_OWN = f"{_ALL} AND {_KEPT}"
_LIVE = "(expires IS NULL OR (expires > :now AND expires < ''))"  # An expiry that is not a number has passed.
_EXPIRED = "(expires <= :now OR expires >= '')"

# The "+" removes the column's affinity, which the index does not have. With it, SQLite would scan all values for each
# owner (https://www.sqlite.org/datatype3.html#type_conversions_prior_to_comparison).
_OF_S = f"{_owner_of()} = +s.key AND rowid > COALESCE(s.deleted_up_to, 0)"
_KEPT_OF_S = f'FROM "values" INDEXED BY "values_by_owner" WHERE {_OF_S}'

_IS_DELETED = f"""
    (rowid <= COALESCE((SELECT deleted_up_to FROM "sessions" WHERE key = {_owner_of('"values".')}), 0))"""

# Reading

# As a subquery, the expiry takes a tenth of the time of a join. It is NULL if the owner has another session id.
_EXPIRY = '(SELECT value FROM "sessions" WHERE key = :owner AND session IS :session)'
GET = """
    SELECT (
        SELECT value FROM "sessions"
        WHERE key = ?1 AND session IS ?2 AND (deleted_up_to IS NULL OR deleted_up_to < "values".rowid)
    ), value, expires, file, boot FROM "values" WHERE key = ?3"""
HAS = f'SELECT {_EXPIRY}, expires, file, boot FROM "values" WHERE key = :key AND {_KEPT}'
KEYS = f'SELECT {_EXPIRY}, key, file, boot FROM "values" WHERE {_OWN} AND {_LIVE} ORDER BY rowid LIMIT :limit'
LAST_KEYS = KEYS.replace("ORDER BY rowid", "ORDER BY rowid DESC")
ITEMS = f'SELECT {_EXPIRY}, key, value, file, boot FROM "values" WHERE {_OWN} AND {_LIVE} ORDER BY rowid'
DESCRIBE = f"""
    SELECT {_EXPIRY}, key, {_size_of()}, expires, file, boot FROM "values" WHERE {_OWN} AND {_LIVE} ORDER BY rowid"""
VERSIONS = f'SELECT {_EXPIRY}, key, substr(value, -:length), file, boot FROM "values" WHERE {_OWN} AND {_LIVE}'
VERSIONS_OF_KEYS = f"""
    SELECT {_EXPIRY}, key, substr(value, -:length), file, boot FROM "values"
    WHERE key IN (SELECT value FROM json_each(:keys)) AND {_KEPT} AND {_LIVE}"""
STAT = f"""
    SELECT value, session, renewed, bytes - past_bytes, keys - past_keys, user FROM "sessions", (
        SELECT COALESCE(SUM({_size_of()}), 0) AS past_bytes, COUNT(*) AS past_keys
        FROM "values" INDEXED BY "values_by_owner_and_expiry" WHERE {_OWN} AND {_EXPIRED}
    ) WHERE key = :owner"""
SESSION = 'SELECT value, session, renewed, keys, bytes FROM "sessions" WHERE key = ?'
SESSIONS = f"""
    SELECT key, session, created, value, bytes - (
        SELECT COALESCE(SUM({_size_of()}), 0)
        FROM "values" INDEXED BY "values_by_owner_and_expiry" WHERE {_OF_S} AND {_EXPIRED}
    ) FROM "sessions" s WHERE user = :user AND value > :now ORDER BY created"""
OWNERS = f"""
    SELECT key FROM "sessions" s
    WHERE key >= :prefix AND key < :end AND typeof(value) IN ('real', 'integer') AND value > :now
    AND EXISTS (SELECT 1 {_KEPT_OF_S} AND {_LIVE}) ORDER BY key"""
ALL_OWNERS = 'SELECT key FROM "sessions" WHERE key > ? ORDER BY key LIMIT 1000'
DUMP_SESSION = 'SELECT value, session, renewed, created, user FROM "sessions" WHERE key = ?'
DUMP = f'SELECT key, value, expires, file, boot FROM "values" WHERE {_OWN} ORDER BY rowid'
NAMED_FILES = 'SELECT file FROM "values" WHERE file IS NOT NULL'
KEPT_FILES = f'SELECT key, file FROM "values" WHERE file IS NOT NULL AND NOT {_IS_DELETED}'
IS_NAMED = 'SELECT 1 FROM "values" WHERE file = ?'

# Writing

# The common writes: a small value, of a session that needs no touch, within its limits, which are checked as if the
# value were new. If the old value has a file or an expiry, near the limits, or while there are rows that count as
# deleted, they change nothing, and PUT is used. To overwrite a value, an UPDATE takes two thirds of the time.
_ROOM = """
    FROM "sessions" WHERE key = ?3 AND session IS ?4 AND value BETWEEN ?5 AND ?6 AND bytes + 0 <= ?7
    AND deleted_up_to IS NULL"""
OVERWRITE = f"""
    UPDATE "values" SET value = ?1 WHERE key = ?2 AND expires IS NULL AND file IS NULL AND EXISTS (SELECT 1 {_ROOM})"""
SET = f"""
    INSERT INTO "values" (key, value, expires, file_bytes) SELECT ?2, ?1, ?9, 0 {_ROOM} AND keys < ?8
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires
    WHERE file IS NULL AND (expires IS NULL OR (expires > ?10 AND expires < ''))"""
# Compare-and-set: changes nothing if the value is not the former one.
REPLACE = f"{OVERWRITE} AND value = ?8"
PUT = """
    INSERT INTO "values" (key, value, expires, file, file_bytes, boot) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires,
    file = excluded.file, file_bytes = excluded.file_bytes, boot = excluded.boot"""
SIZE = f'SELECT {_size_of()}, expires, file, {_IS_DELETED} FROM "values" WHERE key = ?'
EXPIRE_KEY = 'UPDATE "values" SET expires = ? WHERE key = ?'
SURVIVED_BOOT = 'UPDATE "values" SET boot = ? WHERE file = ?'
DELETE_TORN = 'DELETE FROM "values" WHERE file = ?'
DELETE = 'DELETE FROM "values" WHERE key = ? RETURNING file'
DELETE_KEPT = f'DELETE FROM "values" WHERE key = :key AND {_KEPT} RETURNING file, expires'
CLEAR = f'DELETE FROM "values" WHERE {_ALL} RETURNING file'
COUNT_AS_DELETED = f"""
    UPDATE "sessions" SET bytes = 0, keys = 0, deleted_up_to = (
        SELECT rowid FROM "values" WHERE {_ALL} ORDER BY rowid DESC LIMIT 1
    ) WHERE key = :owner"""

# Sessions

BEGIN_SESSION = """
    INSERT INTO "sessions" (key, value, session, created) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, created = excluded.created, user = NULL,
    bytes = 0, keys = 0"""
# If several find at the same time that it is due, only one changes it.
TOUCH = 'UPDATE "sessions" SET value = ?1 WHERE key = ?2 AND session IS ?3 AND value > ?4 AND abs(value - ?1) > ?5'
RENEW = 'UPDATE "sessions" SET value = ?, session = ?, renewed = ?, user = COALESCE(?, user) WHERE key = ?'
END = """
    INSERT INTO "sessions" (key, value, session, renewed) VALUES (?1, -?2, x'', ?2)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, session = x'', renewed = excluded.renewed, user = NULL"""
LOAD_SESSION = """
    INSERT INTO "sessions" (key, value, session, renewed, created, user) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, session = excluded.session, renewed = excluded.renewed,
    created = excluded.created, user = excluded.user"""
KEEP_ID = """
    INSERT INTO "sessions" (key, value, session, renewed, created, user) VALUES (?1, -?3, ?2, ?3, ?4, ?5)
    ON CONFLICT (key) DO UPDATE SET session = excluded.session, renewed = excluded.renewed, user = excluded.user
    WHERE renewed IS NULL OR renewed < excluded.renewed"""
LIMIT_EXPIRY = """
    UPDATE "sessions" SET value = :latest
    WHERE value > :latest AND value < 9e999 AND +key >= :prefix AND +key < :end"""

# Statistics, of the counts that the triggers keep for each session. No value is looked at.

_IS_LIVE = "value > :now AND value < ''"
_IS_THERE = f"{_IS_LIVE} AND (keys > 0 OR key < 'u.' OR key >= 'u/')"
_IS_SESSION = "key >= 's.' AND key < 's/'"
_IS_VISITORS = "key >= 's.'"  # The names of the package's own owners come before those of sessions and users.
TOTALS = f"""
    SELECT COUNT(*) FILTER (WHERE {_IS_SESSION}), COUNT(*) FILTER (WHERE key >= 'u.' AND key < 'u/' AND keys > 0),
        COALESCE(SUM(bytes), 0), COALESCE(SUM(keys), 0), MIN(created),
        COUNT(*) FILTER (WHERE created > :hour AND {_IS_SESSION}),
        COUNT(*) FILTER (WHERE created > :day AND {_IS_SESSION}),
        (SELECT COUNT(*) FROM "sessions" WHERE value > 0 AND value <= :now)
            + (SELECT COUNT(*) FROM "sessions" WHERE value IS NULL)
            + (SELECT COUNT(*) FROM "sessions" WHERE value >= ''),
        (SELECT COUNT(*) FROM "sessions" WHERE value <= 0)
    FROM "sessions" NOT INDEXED WHERE {_IS_LIVE} AND {_IS_VISITORS}"""
LARGEST = f"""
    SELECT key, COALESCE(created, 0.0), value, bytes, keys FROM "sessions" NOT INDEXED
    WHERE {_IS_THERE} AND {_IS_VISITORS} ORDER BY bytes DESC, key LIMIT :limit"""
_COUNTS = columns_of_spread("bytes", "created", "value", ":now")
SPREAD = f"""
    SELECT COUNT(*), {", ".join(f"COUNT(*) FILTER (WHERE {column})" for column in _COUNTS)}
    FROM "sessions" NOT INDEXED WHERE {_IS_LIVE} AND {_IS_SESSION}"""
_FOUND = f"""
    FROM "sessions" NOT INDEXED
    WHERE {_IS_THERE} AND key >= :prefix AND key < :end AND (
        :part = '' OR lower(key) = :name
        OR (instr(lower(key), :part) AND lower(key) GLOB '*{NOT_IN_AN_ESCAPE}' || :part || '*')
    )"""
# A page past the end has one row, of the total.
_PAGE = """
    SELECT total, key, COALESCE(created, 0.0), value, bytes, keys FROM (SELECT COUNT(*) AS total {all})
    LEFT JOIN "sessions" ON "sessions".rowid IN (SELECT {page} LIMIT :limit OFFSET :offset) ORDER BY {order}, key"""
# With ORDER BY and LIMIT in one SELECT, SQLite keeps the rows up to the page's end, and no others, in a tree. Of a
# million, that is the quickest for the first pages, and takes 3 s for one in the middle. To sort all takes 0.6 s for
# any page, and then they are counted without another pass.
_SORTED = f"WITH found AS MATERIALIZED (SELECT rowid AS id {_FOUND} ORDER BY {{order}}, key)"
_ORDERS = {"newest": "created DESC", "oldest": "created", "largest": "bytes DESC", "expiring": "value"}
FIRST_PAGES = {
    order: _PAGE.format(all=_FOUND, page=f"rowid {_FOUND} ORDER BY {column}, key", order=column)
    for order, column in _ORDERS.items()
}
SORTED_PAGES = {
    order: _SORTED.format(order=column) + _PAGE.format(all="FROM found", page="id FROM found", order=column)
    for order, column in _ORDERS.items()
}

# Maintenance

PAST_OWNERS = """
    SELECT key, value, renewed FROM "sessions"
    WHERE value IS NULL OR (value > ? AND value <= ?) OR value >= '' LIMIT ?"""
ALL_KEYS = f'SELECT key FROM "values" WHERE {_OWN} ORDER BY rowid'
# Marks an owner whose values are being removed in several steps, and whose keys have already been reported.
NOTE_REMOVAL = 'UPDATE "sessions" SET value = NULL WHERE key = ? AND value IS ?'
WITH_DELETED = 'SELECT key FROM "sessions" WHERE deleted_up_to IS NOT NULL LIMIT 1'
# Rows of an owner to be removed, with their lengths.
SIZES = f'SELECT rowid, length(value) FROM "values" WHERE {_ALL} LIMIT :limit'
SIZES_KEPT = f'SELECT rowid, length(value) FROM "values" WHERE {_OWN} LIMIT :limit'
SIZES_DELETED = f"""
    SELECT rowid, length(value) FROM "values" WHERE {_ALL} AND rowid <= {_DELETED_UP_TO} ORDER BY rowid LIMIT :limit"""
SIZES_EXPIRED = f'SELECT rowid, length(value) FROM "values" WHERE {_OWN} AND {_EXPIRED} LIMIT :limit'
DELETE_ROW = 'DELETE FROM "values" WHERE rowid = ? RETURNING file'
DELETE_SESSION = 'DELETE FROM "sessions" WHERE key = ? AND value IS ?'
KEEP_RENEWED = """
    UPDATE "sessions" SET value = -renewed, user = NULL, bytes = 0, keys = 0 WHERE key = ? AND value IS ?"""
PAST_KEYS = "SELECT rowid FROM \"values\" WHERE expires <= ? OR expires >= '' LIMIT ?"

# Backups

ALL_VALUES = f"""
    SELECT key, value, expires, file, file_bytes, boot FROM "values" WHERE NOT {_IS_DELETED} ORDER BY rowid"""
COUNT_ROWS = f"""
    SELECT (SELECT COUNT(*) FROM "sessions") + (SELECT COUNT(*) FROM "values" WHERE NOT {_IS_DELETED})"""
DELETE_DELETED = f'DELETE FROM "values" WHERE {_IS_DELETED}'
ALL_SESSIONS = 'SELECT key, value, session, renewed, created, user FROM "sessions"'
ALL_RENEWED = 'SELECT key, session, renewed, created, user FROM "sessions" WHERE renewed IS NOT NULL'
DELETE_ALL = ('DELETE FROM "values"', 'DELETE FROM "sessions"')
WRONG_COUNTS = f"""
    SELECT key FROM "sessions" s WHERE bytes IS NOT (SELECT COALESCE(SUM({_size_of()}), 0) {_KEPT_OF_S})
    OR keys IS NOT (SELECT COUNT(*) {_KEPT_OF_S})"""


# One statement, so that it sees the tables of another process either not at all or complete.
FORMAT_FACTS = f"""
    SELECT application_id, user_version,
        EXISTS (SELECT 1 FROM sqlite_schema WHERE name IN ({", ".join(f"'{name}'" for name in COLUMNS)}))
    FROM pragma_application_id, pragma_user_version"""


def check_format(facts: tuple[int, int, int], filename: str) -> None:
    """Check a file before it is used.

    :param facts: the row of :data:`FORMAT_FACTS`: SQLite's ``application_id`` and ``user_version``, and whether the
        file has a table with a name that this package uses
    :raises UnknownFormat: if the file was written by another version of this package, or by another program
    """
    application, found, has_tables = facts
    if application not in (0, APPLICATION_ID) or (application == 0 and (found or has_tables)):
        raise UnknownFormat(f"The storage file {filename} belongs to another program. Name another file.")
    if found not in (0, FORMAT):
        raise UnknownFormat(
            f"The storage file {filename} has format {found}, and this version of flask_dash_store reads format "
            f"{FORMAT}. Use the version that wrote it, or name another file."
        )


def make_tables(execute: Execute, filename: str) -> None:
    """Create the tables, indexes and triggers, unless they exist.

    sqlitedict's own class creates the tables, so that any tool for its tables can read these. Stock sqlitedict sends
    each statement through a queue to one thread, which raises an error in another caller's next call, hangs after a
    fork or a failed COMMIT, and turns ``synchronous`` off. But its class needs little of its connection, so here it
    gets the transaction that prepares the file.

    :param execute: runs a statement in that transaction, and returns the rows
    """
    if execute("PRAGMA user_version") == [(FORMAT,)]:
        return
    for name, columns in COLUMNS.items():
        _Table(execute, filename, name).close()
        for column in columns:
            execute(f'ALTER TABLE "{name}" ADD COLUMN {column}')
    for statement in (*INDEXES, *TRIGGERS):
        execute(statement)
    execute(f"PRAGMA application_id = {APPLICATION_ID}")
    execute(f"PRAGMA user_version = {FORMAT}")


class _Table(SqliteDict):  # type: ignore[misc]  # sqlitedict has no type hints
    def __init__(self, execute: Execute, filename: str, name: str) -> None:
        self._execute = execute
        super().__init__(
            filename, tablename=name, autocommit=True, journal_mode="WAL", encode=identity, decode=identity
        )

    def _new_conn(self) -> _TableConnection:
        return _TableConnection(self._execute)


class _TableConnection:
    """The part of a connection that SqliteDict uses to create a table."""

    autocommit = True

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def execute(self, sql: str, args: tuple[Any, ...] = ()) -> None:
        self._execute(sql, args)

    def commit(self, blocking: bool = True) -> None:
        """Do nothing: the transaction commits."""

    def close(self, force: bool = False) -> None:
        """Do nothing: the connection belongs to the transaction."""
