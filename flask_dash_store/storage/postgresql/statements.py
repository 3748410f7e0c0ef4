"""Every statement that the PostgreSQL storage runs on its tables: queries, and calls of the functions that write."""

from __future__ import annotations

from .schema import CHARGE, INDEXED, is_owner

_IS_GIVEN = is_owner("%(owner)s::text")
_IS_LIVE = "(v.expires IS NULL OR v.expires > %(now)s)"

# Reading. Each begins with when the owner expires and when it ended, and has no row when the owner is unknown.

_SESSION = f"FROM sessions s WHERE {_IS_GIVEN}"
_OWN_VALUES = f"""
    FROM sessions s LEFT JOIN "values" v ON v.session = s.id AND {_IS_LIVE} WHERE {_IS_GIVEN} ORDER BY v.place"""
_HAS_VALUES = f'EXISTS (SELECT 1 FROM "values" v WHERE v.session = s.id AND {_IS_LIVE})'

GET = f"""
    SELECT s.expires, s.ended_at, v.payload, v.body_name, v.body
    FROM sessions s LEFT JOIN "values" v ON v.session = s.id AND v.key = %(key)s AND {_IS_LIVE} WHERE {_IS_GIVEN}"""
HAS = f"""
    SELECT s.expires, s.ended_at,
    EXISTS (SELECT 1 FROM "values" v WHERE v.session = s.id AND v.key = %(key)s AND {_IS_LIVE}) {_SESSION}"""
KEYS = f"SELECT s.expires, s.ended_at, v.key {_OWN_VALUES}"
PAYLOADS = f"SELECT s.expires, s.ended_at, v.key, v.payload {_OWN_VALUES}"
ITEMS = f"SELECT s.expires, s.ended_at, v.key, v.payload, v.body_name, v.body {_OWN_VALUES}"
COUNT = f"""
    SELECT s.expires, s.ended_at,
    (SELECT COUNT(*) FROM "values" v WHERE v.session = s.id AND {_IS_LIVE}) {_SESSION}"""
EXPIRY = f"SELECT s.expires, s.ended_at, {_HAS_VALUES} {_SESSION}"
NBYTES = f"""
    SELECT s.expires, s.ended_at,
    (SELECT COALESCE(SUM({CHARGE} + octet_length(v.key)), 0)::bigint FROM "values" v
     WHERE v.session = s.id AND {_IS_LIVE}) {_SESSION}"""
DUMP = f"""
    SELECT s.expires, s.ended_at, v.key, v.payload, v.body_name, v.body, v.expires
    FROM sessions s LEFT JOIN "values" v ON v.session = s.id WHERE {_IS_GIVEN} ORDER BY v.place"""
OWNERS = f"""
    SELECT s.owner FROM sessions s
    WHERE left(s.owner, {INDEXED}) >= left(%(prefix)s::text, {INDEXED}) AND starts_with(s.owner, %(prefix)s)
    AND s.expires > %(now)s AND {_HAS_VALUES} ORDER BY s.owner"""
EVERYONE = "SELECT id, owner FROM sessions WHERE id > %(last)s ORDER BY id LIMIT 1000"

# Writing

_ACCESS = "%(now)s, %(expires)s, %(touch_threshold)s"
SET = f"""
    SELECT * FROM put_value(%(owner)s, %(key)s, %(payload)b, %(body_name)s, %(body)b, %(key_expires)s, %(keeps)s,
    {_ACCESS}, %(max_bytes)s, %(max_keys)s)"""
EXPIRE = f"SELECT * FROM expire_value(%(owner)s, %(key)s, %(key_expires)s, {_ACCESS})"
DELETE = f"SELECT * FROM delete_value(%(owner)s, %(key)s, {_ACCESS})"
CLEAR = f"SELECT clear_session(%(owner)s, {_ACCESS})"
TOUCH = "SELECT touch(%(owner)s, %(now)s, %(expires)s)"
END = "SELECT end_session(%(owner)s, %(now)s)"
MOVE = "SELECT move_values(%(owner)s, %(new_owner)s, %(keys)s, %(payloads)s, %(now)s, %(expires)s)"
LIMIT_EXPIRY = """
    UPDATE sessions SET expires = %(latest)s
    WHERE expires > %(latest)s AND expires < 'infinity' AND starts_with(owner, %(prefix)s)"""
PURGE_SESSIONS = "SELECT purge_sessions(%(now)s, %(ended_before)s, %(limit)s, %(waits)s)"
PURGE_VALUES = "SELECT purge_values(%(now)s, %(limit)s, %(waits)s)"
REPLACE = "SELECT replace_session(%(owner)s, %(expires)s, %(ended_at)s)"
LOAD = """
    INSERT INTO "values" (session, key, payload, body_name, body, expires)
    VALUES (%(session)s, %(key)s, %(payload)b, %(body_name)s, %(body)b, %(key_expires)s)"""
RECOUNT = "SELECT recount(%(session)s)"
