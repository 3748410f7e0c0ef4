"""The tables of the SQLite storage, and every statement that is run on them.

``values`` keeps ``<owner>/<key>`` -> payload, when the key expires if it does by itself, and the name of the body's
file if it has one. An owner's keys are a range of the primary key, and their order is the rowid's. ``sessions`` keeps
``<owner>`` -> the owner's expiry, and how many bytes and keys its values take.

The expiry is in seconds since the epoch; that of an owner who was ended is the time of its end, negated. So the past
and the long ended are one range of one index.
"""

VALUES_COLUMNS = "expires REAL, file TEXT, file_bytes INTEGER NOT NULL DEFAULT 0, boot TEXT"
SESSIONS_COLUMNS = "bytes INTEGER NOT NULL DEFAULT 0, keys INTEGER NOT NULL DEFAULT 0"
INDEXES = (
    # Finds an owner's expiry without a look at the table, for each operation asks for it.
    'CREATE UNIQUE INDEX IF NOT EXISTS "sessions_by_key" ON "sessions" (key, value)',
    'CREATE INDEX IF NOT EXISTS "sessions_by_expiry" ON "sessions" (value)',
    # Those who ended on a full disk, where their values could not be deleted.
    'CREATE INDEX IF NOT EXISTS "sessions_to_empty" ON "sessions" (key) WHERE value < 0 AND keys > 0',
    'CREATE INDEX IF NOT EXISTS "values_by_expiry" ON "values" (expires) WHERE expires IS NOT NULL',
    'CREATE INDEX IF NOT EXISTS "values_by_file" ON "values" (file) WHERE file IS NOT NULL',
)

FROM_FORMAT_1 = (
    'ALTER TABLE "sessions" ADD COLUMN keys INTEGER NOT NULL DEFAULT 0',
    """UPDATE "sessions" SET keys = (SELECT COUNT(*) FROM "values" v
        WHERE v.key >= sessions.key || '/' AND v.key < sessions.key || '0')""",
)

PAGE_BYTES = 4096  # SQLite's default.

# Bytes are counted in blocks, so that overwriting a value by one of about its size changes no count.
BLOCK = 256

_LIVE_KEY = "(v.expires IS NULL OR (v.expires > :now AND v.expires < ''))"  # What is no number is past.
_OWN_KEYS = "v.key >= :owner || '/' AND v.key < :owner || '0'"
_CHARGE = f"((COALESCE(length(value), 0) + {BLOCK - 1}) / {BLOCK} * {BLOCK} + file_bytes)"

# Reading

# As a subquery the expiry costs a tenth of what it costs in a join.
_EXPIRY = '(SELECT value FROM "sessions" INDEXED BY "sessions_by_key" WHERE key = ?)'
GET = f'SELECT {_EXPIRY}, value, expires, file, boot FROM "values" WHERE key = ?'
HAS = f'SELECT {_EXPIRY}, expires, file, boot FROM "values" WHERE key = ?'
_OWN_VALUES = f"""
    FROM "sessions" s LEFT JOIN "values" v ON {_OWN_KEYS} AND {_LIVE_KEY}
    WHERE s.key = :owner ORDER BY v.rowid"""
KEYS = f"SELECT s.value, v.key, v.file, v.boot {_OWN_VALUES}"
ITEMS = f"SELECT s.value, v.key, v.value, v.file, v.boot {_OWN_VALUES}"
EXPIRY = f"""
    SELECT s.value, EXISTS (SELECT 1 FROM "values" v WHERE {_OWN_KEYS} AND {_LIVE_KEY})
    FROM "sessions" s WHERE s.key = :owner"""
_CHARGES = f"COALESCE(SUM({_CHARGE} + length(CAST(v.key AS BLOB)) - length(CAST(:owner AS BLOB)) - 1), 0)"
NBYTES = f"""
    SELECT s.value, (SELECT {_CHARGES} FROM "values" v WHERE {_OWN_KEYS} AND {_LIVE_KEY})
    FROM "sessions" s WHERE s.key = :owner"""
MEASURE = f'SELECT {_CHARGES}, COUNT(*) FROM "values" v WHERE {_OWN_KEYS}'
OWNERS = f"""
    SELECT s.key FROM "sessions" s
    WHERE s.key >= :prefix AND s.key < :end AND typeof(s.value) IN ('real', 'integer') AND s.value > :now
    AND EXISTS (SELECT 1 FROM "values" v WHERE v.key >= s.key || '/' AND v.key < s.key || '0' AND {_LIVE_KEY})
    ORDER BY s.key"""
EVERYONE = 'SELECT key FROM "sessions" WHERE key > ? ORDER BY key LIMIT 1000'
DUMP = f'SELECT v.key, v.value, v.expires, v.file, v.boot FROM "values" v WHERE {_OWN_KEYS} ORDER BY v.rowid'
NAMED_FILES = 'SELECT file FROM "values" WHERE file IS NOT NULL'
IS_NAMED = 'SELECT 1 FROM "values" WHERE file = ?'

# Writing

SIZE = f'SELECT {_CHARGE}, expires, file FROM "values" WHERE key = ?'
PUT = """
    INSERT INTO "values" (key, value, expires, file, file_bytes, boot) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires,
    file = excluded.file, file_bytes = excluded.file_bytes, boot = excluded.boot"""
# The common write as one statement: a small value over one of about its size, in a session that needs no touch.
OVERWRITE = f"""
    UPDATE "values" SET value = ?
    WHERE key = ? AND expires IS NULL AND file IS NULL AND (length(value) + {BLOCK - 1}) / {BLOCK} = ?
    AND EXISTS (
        SELECT 1 FROM "sessions" INDEXED BY "sessions_by_key" WHERE key = ? AND value > ? AND value BETWEEN ? AND ?)"""
EXPIRE_KEY = 'UPDATE "values" SET expires = ? WHERE key = ?'
SURVIVED_BOOT = 'UPDATE "values" SET boot = ? WHERE file = ?'
DELETE_TORN = 'DELETE FROM "values" WHERE file = ?'
MOVE = 'UPDATE "values" SET key = ?, value = ? WHERE key = ?'
DELETE = 'DELETE FROM "values" WHERE key = ?'
DELETE_EXPIRED = "DELETE FROM \"values\" WHERE key = ? AND (expires <= ? OR expires >= '') RETURNING file"
CLEAR = "DELETE FROM \"values\" WHERE key >= ? || '/' AND key < ? || '0' RETURNING file"
SIZES = "SELECT rowid, length(value) FROM \"values\" WHERE key >= ? || '/' AND key < ? || '0' LIMIT ?"
DELETE_ROW = 'DELETE FROM "values" WHERE rowid = ? RETURNING file'
CLEAR_EXPIRED = "DELETE FROM \"values\" WHERE key >= ? || '/' AND key < ? || '0' AND expires <= ? RETURNING file"

# Sessions

SESSION = 'SELECT value, bytes, keys FROM "sessions" WHERE key = ?'
PUT_SESSION = """
    INSERT INTO "sessions" (key, value, bytes, keys) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, bytes = excluded.bytes, keys = excluded.keys"""
# Of those who find at the same access that it is due, one is enough.
TOUCH = 'UPDATE "sessions" SET value = ? WHERE key = ? AND value > ? AND abs(value - ?) > ?'
DELETE_SESSION = 'DELETE FROM "sessions" WHERE key = ? AND value IS ?'
LIMIT_EXPIRY = """
    UPDATE "sessions" SET value = :latest
    WHERE value > :latest AND value < 9e999 AND +key >= :prefix AND +key < :end"""
RECOUNT = 'UPDATE "sessions" SET bytes = ?, keys = ? WHERE key = ?'

# All of it, for backups

ALL_VALUES = 'SELECT key, value, expires, file, file_bytes, boot FROM "values" ORDER BY rowid'
ALL_BODIES = 'SELECT key, file FROM "values" WHERE file IS NOT NULL'
ALL_SESSIONS = 'SELECT key, value FROM "sessions"'
ALL_ENDED = 'SELECT key, value FROM "sessions" WHERE value < 0'
DELETE_ALL = ('DELETE FROM "values"', 'DELETE FROM "sessions"')

# Purging

PAST_OWNERS = """
    SELECT key, value FROM "sessions"
    WHERE value IS NULL OR (value > ? AND value <= ?) OR value >= '' LIMIT ?"""
ENDED_WITH_VALUES = 'SELECT key FROM "sessions" WHERE value < 0 AND keys > 0 LIMIT ?'
PAST_KEYS = "SELECT key FROM \"values\" WHERE expires <= ? OR expires >= '' LIMIT ?"


def charge(payload_bytes: int, file_bytes: int = 0) -> int:
    """How many bytes a value counts as."""
    return -(-payload_bytes // BLOCK) * BLOCK + file_bytes
