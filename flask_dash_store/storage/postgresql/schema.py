"""The tables and functions of the PostgreSQL storage.

``sessions`` keeps of each owner when it expires or has ended, and how many bytes and keys its values take; ``values``
keeps by session and key the payload, when the key expires if it does by itself, and the body if there is one. Times
are seconds since the epoch, and infinity for never. Names are without a schema: a connection's search path has one.

A write is one call of a function, so that it is one round trip. It takes the owner's lock first. Each statement of a
function sees all that was committed before that statement began (READ COMMITTED), so what comes after the lock sees
whatever the lock's last holder did, and nobody can change it before the commit gives the lock back: no other writer
of the owner is ever met halfway, and no stricter isolation is needed. Advisory locks lie in memory alone, know owners
without a row, and keep no reader waiting. A function that refuses has removed at most what had expired, and says so
in its result: an error would undo the transaction that it was called in.
"""

from __future__ import annotations

# Of the tables and functions together. One that a new version changes in any way has to become another number.
FORMAT = 1

# Bytes are counted in blocks, so that overwriting a value by one of about its size changes no count.
BLOCK = 256

# An index entry has room for about 2700 bytes, and the owner of a long user id is longer. So two owners may meet in the
# index, and the whole name decides.
INDEXED = 256

CHARGE = f"((octet_length(v.payload) + {BLOCK - 1}) / {BLOCK} * {BLOCK} + COALESCE(octet_length(v.body), 0))::bigint"


def is_owner(argument: str) -> str:
    """SQL for whether ``s`` is the session of an owner."""
    return f"left(s.owner, {INDEXED}) = left({argument}, {INDEXED}) AND s.owner = {argument}"


TABLES = f"""
CREATE TABLE sessions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    expires double precision,
    ended_at double precision,
    bytes bigint NOT NULL DEFAULT 0,
    keys bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE INDEX sessions_by_owner ON sessions (left(owner, {INDEXED}));
CREATE INDEX sessions_by_expiry ON sessions (expires);
CREATE INDEX sessions_by_end ON sessions (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE "values" (
    session bigint NOT NULL,
    key bytea NOT NULL,
    place bigint GENERATED ALWAYS AS IDENTITY,
    expires double precision,
    payload bytea NOT NULL,
    body_name text,
    body bytea,
    PRIMARY KEY (session, key)
) WITH (fillfactor = 80);
CREATE INDEX values_by_expiry ON "values" (expires) WHERE expires IS NOT NULL;
-- What is large lies beside the row, and uncompressed: NumPy's buffers shrink little, and that costs much.
ALTER TABLE "values" ALTER payload SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL;

CREATE TABLE format (number integer NOT NULL);
INSERT INTO format VALUES ({FORMAT});
"""

# The seed keeps the locks of different schemas apart: a database has one space for all of them.
FUNCTIONS = f"""
CREATE FUNCTION lock_owner(_owner text, _waits boolean) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    id bigint := hashtextextended(_owner, hashtextextended(current_schema(), 0));
BEGIN
    IF _waits THEN
        PERFORM pg_advisory_xact_lock(id);
        RETURN true;
    END IF;
    RETURN pg_try_advisory_xact_lock(id);
END $$;

-- The owner's session, locked. Its id is null when there is none. Its expiry is null when it has no values, for it has
-- ended, or its values have expired and are gone now.
CREATE FUNCTION open_session(_owner text, _now double precision) RETURNS sessions LANGUAGE plpgsql AS $$
DECLARE
    own sessions;
BEGIN
    PERFORM lock_owner(_owner, true);
    SELECT * INTO own FROM sessions s WHERE {is_owner("_owner")};
    IF own.expires <= _now THEN
        DELETE FROM "values" v WHERE v.session = own.id;
        own.expires := NULL;
        own.bytes := 0;
        own.keys := 0;
    END IF;
    RETURN own;
END $$;

CREATE FUNCTION record_use(own sessions, _expires double precision, _touch_threshold double precision) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    -- The difference of two infinities is no number, which PostgreSQL takes for the largest one.
    moves boolean := own.expires IS NULL OR (own.expires <> _expires AND abs(own.expires - _expires) > _touch_threshold);
BEGIN
    UPDATE sessions s SET expires = CASE WHEN moves THEN _expires ELSE s.expires END, bytes = own.bytes, keys = own.keys
    WHERE s.id = own.id AND (moves OR s.bytes <> own.bytes OR s.keys <> own.keys);
END $$;

CREATE FUNCTION touch(_owner text, _now double precision, _expires double precision) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF lock_owner(_owner, false) THEN
        UPDATE sessions s SET expires = _expires WHERE {is_owner("_owner")} AND s.expires > _now;
    END IF;
END $$;

CREATE FUNCTION put_value(
    _owner text, _key bytea, _payload bytea, _body_name text, _body bytea, _key_expires double precision,
    _keeps boolean, _now double precision, _expires double precision, _touch_threshold double precision,
    _max_bytes bigint, _max_keys bigint,
    OUT ended_at double precision, OUT more_bytes bigint, OUT more_keys bigint, OUT bytes bigint, OUT keys bigint
) LANGUAGE plpgsql AS $$
DECLARE
    own sessions := open_session(_owner, _now);
    old record;
    is_there boolean;
    has_swept boolean := false;
BEGIN
    ended_at := own.ended_at;
    IF ended_at IS NOT NULL THEN
        RETURN;
    END IF;
    own.bytes := COALESCE(own.bytes, 0);
    own.keys := COALESCE(own.keys, 0);
    SELECT v.expires, {CHARGE} AS charge INTO old FROM "values" v WHERE v.session = own.id AND v.key = _key;
    is_there := FOUND;
    IF is_there AND old.expires <= _now THEN  -- What is stored there now is new, and comes last.
        DELETE FROM "values" v WHERE v.session = own.id AND v.key = _key;
        own.bytes := own.bytes - old.charge - octet_length(_key);
        own.keys := own.keys - 1;
        is_there := false;
    END IF;
    more_bytes := (octet_length(_payload) + {BLOCK - 1}) / {BLOCK} * {BLOCK} + COALESCE(octet_length(_body), 0)
        + CASE WHEN is_there THEN -old.charge ELSE octet_length(_key) END;
    more_keys := CASE WHEN is_there THEN 0 ELSE 1 END;
    WHILE more_bytes > 0 AND own.bytes + more_bytes > _max_bytes OR more_keys > 0 AND own.keys + more_keys > _max_keys
    LOOP
        IF has_swept THEN
            PERFORM recount(own.id);
            bytes := own.bytes;
            keys := own.keys;
            RETURN;
        END IF;
        DELETE FROM "values" v WHERE v.session = own.id AND v.expires <= _now;
        SELECT COALESCE(SUM({CHARGE} + octet_length(v.key)), 0), COUNT(*) INTO own.bytes, own.keys
        FROM "values" v WHERE v.session = own.id;
        has_swept := true;
    END LOOP;
    IF own.id IS NULL THEN
        INSERT INTO sessions AS s (owner, expires, bytes, keys) VALUES (_owner, _expires, more_bytes, more_keys)
        RETURNING s.id INTO own.id;
    ELSE
        own.bytes := own.bytes + more_bytes;
        own.keys := own.keys + more_keys;
        PERFORM record_use(own, _expires, _touch_threshold);
    END IF;
    more_bytes := NULL;
    IF is_there THEN
        UPDATE "values" v SET payload = _payload, body_name = _body_name, body = _body,
            expires = CASE WHEN _keeps THEN v.expires ELSE _key_expires END
        WHERE v.session = own.id AND v.key = _key;
    ELSE
        INSERT INTO "values" (session, key, payload, body_name, body, expires)
        VALUES (own.id, _key, _payload, _body_name, _body, _key_expires);
    END IF;
END $$;

CREATE FUNCTION expire_value(
    _owner text, _key bytea, _key_expires double precision,
    _now double precision, _expires double precision, _touch_threshold double precision,
    OUT ended_at double precision, OUT is_there boolean
) LANGUAGE plpgsql AS $$
DECLARE
    own sessions := open_session(_owner, _now);
BEGIN
    ended_at := own.ended_at;
    UPDATE "values" v SET expires = _key_expires
    WHERE v.session = own.id AND v.key = _key AND (v.expires IS NULL OR v.expires > _now);
    is_there := FOUND;
    IF own.expires IS NOT NULL THEN
        PERFORM record_use(own, _expires, _touch_threshold);
    END IF;
END $$;

CREATE FUNCTION delete_value(
    _owner text, _key bytea, _now double precision, _expires double precision, _touch_threshold double precision,
    OUT ended_at double precision, OUT was_there boolean
) LANGUAGE plpgsql AS $$
DECLARE
    own sessions := open_session(_owner, _now);
    old record;
BEGIN
    ended_at := own.ended_at;
    DELETE FROM "values" v WHERE v.session = own.id AND v.key = _key RETURNING v.expires, {CHARGE} AS charge INTO old;
    was_there := FOUND AND (old.expires IS NULL OR old.expires > _now);
    IF FOUND THEN
        own.bytes := own.bytes - old.charge - octet_length(_key);
        own.keys := own.keys - 1;
    END IF;
    IF own.expires IS NOT NULL THEN
        PERFORM record_use(own, _expires, _touch_threshold);
    END IF;
END $$;

CREATE FUNCTION clear_session(
    _owner text, _now double precision, _expires double precision, _touch_threshold double precision,
    OUT ended_at double precision
) LANGUAGE plpgsql AS $$
DECLARE
    own sessions := open_session(_owner, _now);
BEGIN
    ended_at := own.ended_at;
    IF own.expires IS NOT NULL THEN
        DELETE FROM "values" v WHERE v.session = own.id;
        own.bytes := 0;
        own.keys := 0;
        PERFORM record_use(own, _expires, _touch_threshold);
    END IF;
END $$;

CREATE FUNCTION recount(_id bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE sessions s SET (bytes, keys) = (
        SELECT COALESCE(SUM({CHARGE} + octet_length(v.key)), 0), COUNT(*) FROM "values" v WHERE v.session = _id
    ) WHERE s.id = _id
$$;

-- An owner without values, whatever it was before. Returns the session's id.
CREATE FUNCTION replace_session(_owner text, _expires double precision, _ended_at double precision) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    own_id bigint;
BEGIN
    PERFORM lock_owner(_owner, true);
    UPDATE sessions s SET expires = _expires, ended_at = _ended_at, bytes = 0, keys = 0
    WHERE {is_owner("_owner")} RETURNING s.id INTO own_id;
    IF FOUND THEN
        DELETE FROM "values" v WHERE v.session = own_id;
    ELSE
        INSERT INTO sessions AS s (owner, expires, ended_at) VALUES (_owner, _expires, _ended_at)
        RETURNING s.id INTO own_id;
    END IF;
    RETURN own_id;
END $$;

CREATE FUNCTION end_session(_owner text, _now double precision) RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE
    own sessions := open_session(_owner, _now);
BEGIN
    IF own.ended_at IS NULL THEN
        PERFORM replace_session(_owner, NULL, _now);
    END IF;
    RETURN COALESCE(own.ended_at, _now);
END $$;

CREATE FUNCTION move_values(
    _owner text, _new_owner text, _keys bytea[], _payloads bytea[], _now double precision, _expires double precision
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    own sessions := open_session(_owner, _now);
    new_id bigint;
BEGIN
    IF own.expires IS NOT NULL THEN
        new_id := replace_session(_new_owner, _expires, NULL);
        UPDATE "values" v SET session = new_id, payload = moved.payload
        FROM unnest(_keys, _payloads) AS moved (key, payload) WHERE v.session = own.id AND v.key = moved.key;
        PERFORM recount(new_id);
    END IF;
    PERFORM end_session(_owner, _now);
END $$;

-- How many were removed; null when there are some, but others write to all of them, for whom it does not wait.
CREATE FUNCTION purge_sessions(
    _now double precision, _ended_before double precision, _limit bigint, _waits boolean
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    past record;
    removed bigint := 0;
BEGIN
    FOR past IN
        SELECT both_kinds.id FROM (
            SELECT s.id, s.owner FROM sessions s WHERE s.expires <= _now
            UNION ALL SELECT s.id, s.owner FROM sessions s WHERE s.ended_at < _ended_before
        ) both_kinds WHERE lock_owner(both_kinds.owner, _waits) LIMIT _limit
    LOOP  -- It may have been used again before it was locked.
        DELETE FROM sessions s WHERE s.id = past.id AND (s.expires <= _now OR s.ended_at < _ended_before);
        IF FOUND THEN
            DELETE FROM "values" v WHERE v.session = past.id;
            removed := removed + 1;
        END IF;
    END LOOP;
    IF removed = 0 AND NOT _waits AND (
        EXISTS (SELECT 1 FROM sessions s WHERE s.expires <= _now)
        OR EXISTS (SELECT 1 FROM sessions s WHERE s.ended_at < _ended_before)
    ) THEN
        RETURN NULL;
    END IF;
    RETURN removed;
END $$;

CREATE FUNCTION purge_values(_now double precision, _limit bigint, _waits boolean) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    past record;
    charge bigint;
    removed bigint := 0;
BEGIN
    FOR past IN
        SELECT v.session, v.key FROM "values" v JOIN sessions s ON s.id = v.session
        WHERE v.expires <= _now AND lock_owner(s.owner, _waits) LIMIT _limit
    LOOP
        DELETE FROM "values" v WHERE v.session = past.session AND v.key = past.key AND v.expires <= _now
        RETURNING {CHARGE} INTO charge;
        IF FOUND THEN
            UPDATE sessions s SET bytes = s.bytes - charge - octet_length(past.key), keys = s.keys - 1
            WHERE s.id = past.session;
            removed := removed + 1;
        END IF;
    END LOOP;
    IF removed = 0 AND NOT _waits AND EXISTS (SELECT 1 FROM "values" v WHERE v.expires <= _now) THEN
        RETURN NULL;
    END IF;
    RETURN removed;
END $$;
"""
