-- The functions that write. Each acquires the owner's lock first. Each statement of a function sees all that was
-- committed before that statement began (READ COMMITTED), so what comes after the lock sees what its last holder did,
-- and no one can change it before the commit releases the lock: no other writer of the owner is ever met halfway, and
-- no stricter isolation is needed. Advisory locks lie in memory alone, know owners without a row, and keep no reader
-- waiting. A function that refuses has removed at most what had expired, and says so in its result: an error would roll
-- back the transaction that it was called in.

-- Acquires an owner's lock until the transaction ends. Returns false when others hold it and the timeout is 0.
CREATE FUNCTION lock_owner(_owner text, _timeout_ms integer, _is_durable boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    -- The seed keeps the locks of different schemas apart: a database has one space for all of them.
    id bigint := hashtextextended(_owner, hashtextextended(current_schema(), 0));
BEGIN
    -- A server may be set to more than "on", such as to wait for its standby.
    IF _is_durable AND current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF _timeout_ms = 0 THEN
        RETURN pg_try_advisory_xact_lock(id);
    END IF;
    PERFORM set_config('lock_timeout', _timeout_ms::text, true);
    PERFORM pg_advisory_xact_lock(id);
    RETURN true;
END $$;

CREATE FUNCTION begin_transaction(_owner text, _timeout_ms integer, _is_durable boolean) RETURNS void
LANGUAGE plpgsql :settings AS $$
BEGIN
    PERFORM lock_owner(_owner, _timeout_ms, _is_durable);
END $$;

-- Removes all values of a session; many of them at once, by leaving them to maintenance under the id that it had.
CREATE FUNCTION drop_values(INOUT own sessions) LANGUAGE plpgsql AS $$
BEGIN
    IF own.keys <= 100 AND own.bytes <= 1048576 THEN
        DELETE FROM "values" v WHERE v.session = own.id;
    ELSE
        INSERT INTO dropped (id) VALUES (own.id);
        UPDATE sessions s SET id = DEFAULT WHERE s.id = own.id RETURNING s.id INTO own.id;
    END IF;
    own.bytes := 0;
    own.keys := 0;
END $$;

-- Removes the values of a session that have expired by themselves.
CREATE FUNCTION drop_expired_values(INOUT own sessions, _now double precision) LANGUAGE plpgsql AS $$
BEGIN
    WITH expired AS (
        DELETE FROM "values" v WHERE v.session = own.id AND v.expires <= _now RETURNING v.bytes
    )
    SELECT own.bytes - COALESCE(SUM(expired.bytes), 0), own.keys - COUNT(*) INTO own.bytes, own.keys FROM expired;
END $$;

-- The owner's session, locked, and without what has expired. Its id is null when there is none. Its expiry is null when
-- it has no values: it has ended, or they have expired.
CREATE FUNCTION open_session(a access) RETURNS sessions LANGUAGE plpgsql AS $$
DECLARE
    own sessions;
BEGIN
    PERFORM lock_owner(a.owner, a.timeout_ms, a.is_durable);
    SELECT * INTO own FROM sessions s WHERE left(s.owner, 256) = left(a.owner, 256) AND s.owner = a.owner;
    IF own.id IS NULL THEN
        own.bytes := 0;
        own.keys := 0;
    ELSIF own.session IS NOT DISTINCT FROM a.session THEN
        IF own.expires <= a.now THEN
            own := drop_values(own);
            own.expires := NULL;
        ELSIF EXISTS (SELECT 1 FROM "values" v WHERE v.session = own.id AND v.expires <= a.now) THEN
            own := drop_expired_values(own, a.now);
        END IF;
    END IF;
    RETURN own;
END $$;

CREATE FUNCTION save_counts(own sessions) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sessions s SET bytes = own.bytes, keys = own.keys WHERE s.id = own.id;
END $$;

-- Writes down what is counted of the owner, and that it was used. Returns the session's id.
CREATE FUNCTION save_session(own sessions, a access) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    -- The difference of two infinities is NaN, which PostgreSQL takes for the largest number.
    is_touched boolean := own.expires IS NULL
        OR (own.expires <> a.expires AND abs(own.expires - a.expires) > a.touch_threshold);
BEGIN
    IF own.id IS NULL THEN
        INSERT INTO sessions AS s (owner, session, created_at, expires, bytes, keys)
        VALUES (a.owner, a.session, a.now, a.expires, own.bytes, own.keys) RETURNING s.id INTO own.id;
    ELSE
        UPDATE sessions s SET bytes = own.bytes, keys = own.keys,
            expires = CASE WHEN is_touched THEN a.expires ELSE s.expires END,
            created_at = CASE WHEN own.expires IS NULL THEN a.now ELSE s.created_at END,
            user_hash = CASE WHEN own.expires IS NULL THEN NULL ELSE s.user_hash END
        WHERE s.id = own.id AND (is_touched OR s.bytes <> own.bytes OR s.keys <> own.keys);
    END IF;
    RETURN own.id;
END $$;

CREATE FUNCTION touch_session(a access) RETURNS void LANGUAGE plpgsql :settings AS $$
BEGIN
    IF lock_owner(a.owner, 0, false) THEN
        UPDATE sessions s SET expires = a.expires
        WHERE left(s.owner, 256) = left(a.owner, 256) AND s.owner = a.owner
        AND s.session IS NOT DISTINCT FROM a.session AND s.expires > a.now;
    END IF;
END $$;

-- What was refused is in more_bytes and more_keys: what it would have added to bytes and keys.
CREATE FUNCTION put_value(
    a access, _key bytea, _payload bytea, _buffers_name text, _buffers bytea, _key_expires double precision,
    _keeps_expiry boolean, _max_bytes bigint, _max_keys bigint,
    OUT ended_at double precision, OUT more_bytes bigint, OUT more_keys bigint, OUT bytes bigint, OUT keys bigint
) LANGUAGE plpgsql :settings AS $$
DECLARE
    own sessions := open_session(a);
    old_bytes bigint;
BEGIN
    ended_at := when_ended(own, a);
    IF ended_at IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT v.bytes INTO old_bytes FROM "values" v WHERE v.session = own.id AND v.key = _key;
    bytes := own.bytes;
    keys := own.keys;
    more_bytes := octet_length(_key) + octet_length(_payload) + COALESCE(octet_length(_buffers), 0)
        - COALESCE(old_bytes, 0);
    more_keys := CASE WHEN old_bytes IS NULL THEN 1 ELSE 0 END;
    IF more_bytes > 0 AND bytes + more_bytes > _max_bytes OR more_keys > 0 AND keys + more_keys > _max_keys THEN
        PERFORM save_counts(own);
        RETURN;
    END IF;
    own.bytes := bytes + more_bytes;
    own.keys := keys + more_keys;
    own.id := save_session(own, a);
    more_bytes := NULL;
    IF old_bytes IS NULL THEN
        INSERT INTO "values" (session, key, payload, buffers_name, buffers, expires)
        VALUES (own.id, _key, _payload, _buffers_name, _buffers, _key_expires);
    ELSE
        UPDATE "values" v SET payload = _payload, buffers_name = _buffers_name, buffers = _buffers,
            expires = CASE WHEN _keeps_expiry THEN v.expires ELSE _key_expires END
        WHERE v.session = own.id AND v.key = _key;
    END IF;
END $$;

-- All of several values; none when one would be too much, whose number is in refused.
CREATE FUNCTION put_values(
    a access, _keys bytea[], _payloads bytea[], _buffers_names text[], _buffers bytea[],
    _key_expires double precision[], _max_bytes bigint, _max_keys bigint,
    OUT ended_at double precision, OUT refused bigint,
    OUT more_bytes bigint, OUT more_keys bigint, OUT bytes bigint, OUT keys bigint
) LANGUAGE plpgsql :settings AS $$
DECLARE
    own sessions := open_session(a);
    new record;
BEGIN
    ended_at := when_ended(own, a);
    IF ended_at IS NOT NULL THEN
        RETURN;
    END IF;
    bytes := own.bytes;
    keys := own.keys;
    FOR new IN
        SELECT octet_length(n.key) + octet_length(n.payload) + COALESCE(octet_length(n.buffers), 0)
            - COALESCE(v.bytes, 0) AS more_bytes, CASE WHEN v.key IS NULL THEN 1 ELSE 0 END AS more_keys, n.number
        FROM unnest(_keys, _payloads, _buffers) WITH ORDINALITY AS n (key, payload, buffers, number)
        LEFT JOIN "values" v ON v.session = own.id AND v.key = n.key ORDER BY n.number
    LOOP
        more_bytes := new.more_bytes;
        more_keys := new.more_keys;
        IF more_bytes > 0 AND bytes + more_bytes > _max_bytes OR more_keys > 0 AND keys + more_keys > _max_keys THEN
            refused := new.number;
            PERFORM save_counts(own);
            RETURN;
        END IF;
        bytes := bytes + more_bytes;
        keys := keys + more_keys;
    END LOOP;
    own.bytes := bytes;
    own.keys := keys;
    own.id := save_session(own, a);
    INSERT INTO "values" (session, key, payload, buffers_name, buffers, expires)
    SELECT own.id, n.* FROM unnest(_keys, _payloads, _buffers_names, _buffers, _key_expires) AS n
    ON CONFLICT (session, key) DO UPDATE SET payload = excluded.payload, buffers_name = excluded.buffers_name,
        buffers = excluded.buffers, expires = excluded.expires;
END $$;

CREATE FUNCTION expire_value(
    a access, _key bytea, _key_expires double precision, OUT ended_at double precision, OUT is_there boolean
) LANGUAGE plpgsql :settings AS $$
DECLARE
    own sessions := open_session(a);
BEGIN
    ended_at := when_ended(own, a);
    IF ended_at IS NULL AND own.expires IS NOT NULL THEN
        UPDATE "values" v SET expires = _key_expires WHERE v.session = own.id AND v.key = _key;
        is_there := FOUND;
        PERFORM save_session(own, a);
    END IF;
END $$;

CREATE FUNCTION delete_value(
    a access, _key bytea, OUT ended_at double precision, OUT was_there boolean
) LANGUAGE plpgsql :settings AS $$
DECLARE
    own sessions := open_session(a);
    old_bytes bigint;
BEGIN
    ended_at := when_ended(own, a);
    IF ended_at IS NULL AND own.expires IS NOT NULL THEN
        DELETE FROM "values" v WHERE v.session = own.id AND v.key = _key RETURNING v.bytes INTO old_bytes;
        was_there := FOUND;
        IF was_there THEN
            own.bytes := own.bytes - old_bytes;
            own.keys := own.keys - 1;
        END IF;
        PERFORM save_session(own, a);
    END IF;
END $$;

CREATE FUNCTION clear_session(a access, OUT ended_at double precision) LANGUAGE plpgsql :settings AS $$
DECLARE
    own sessions := open_session(a);
BEGIN
    ended_at := when_ended(own, a);
    IF ended_at IS NULL AND own.expires IS NOT NULL THEN
        PERFORM save_session(drop_values(own), a);
    END IF;
END $$;

CREATE FUNCTION renew_session(a access, _session bytea, _user_hash bytea, OUT ended_at double precision)
LANGUAGE plpgsql :settings AS $$
DECLARE
    own sessions := open_session(a);
BEGIN
    ended_at := when_ended(own, a);
    IF ended_at IS NULL THEN
        own.id := save_session(own, a);
        UPDATE sessions s
        SET session = _session, renewed_at = a.now, expires = a.expires, user_hash = COALESCE(_user_hash, s.user_hash)
        WHERE s.id = own.id;
    END IF;
END $$;

CREATE FUNCTION end_session(a access, OUT ended_at double precision) LANGUAGE plpgsql :settings AS $$
DECLARE
    own sessions := open_session(a);
BEGIN
    ended_at := when_ended(own, a);
    IF ended_at IS NULL THEN
        ended_at := a.now;
        own.id := save_session(own, a);
        own := drop_values(own);
        UPDATE sessions s
        SET session = '', renewed_at = a.now, user_hash = NULL, expires = NULL, bytes = 0, keys = 0
        WHERE s.id = own.id;
    END IF;
END $$;

-- An owner without values, whatever it was before. The caller holds its lock.
CREATE FUNCTION replace_session(
    _owner text, _session bytea, _renewed_at double precision, _user_hash bytea, _created_at double precision,
    _expires double precision
) RETURNS void LANGUAGE plpgsql :settings AS $$
DECLARE
    own sessions;
BEGIN
    SELECT * INTO own FROM sessions s WHERE left(s.owner, 256) = left(_owner, 256) AND s.owner = _owner;
    IF FOUND THEN
        own := drop_values(own);
        DELETE FROM sessions s WHERE s.id = own.id;
    END IF;
    INSERT INTO sessions (owner, session, renewed_at, user_hash, created_at, expires)
    VALUES (_owner, _session, _renewed_at, _user_hash, _created_at, _expires);
END $$;
