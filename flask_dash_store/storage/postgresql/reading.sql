-- The functions that read. Those of one owner have no row when it is unknown; else each row begins with when it
-- expires, and when it has ended for the id that asks.

CREATE FUNCTION when_ended(s sessions, a access) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN s.session IS DISTINCT FROM a.session THEN COALESCE(s.renewed_at, s.created_at) END
$$;

CREATE FUNCTION get_value(a access, _key bytea) RETURNS TABLE (
    expires double precision, ended_at double precision, payload bytea, buffers_name text, buffers bytea
) LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT s.expires, when_ended(s, a), v.payload, v.buffers_name, v.buffers
    FROM sessions s LEFT JOIN "values" v
        ON v.session = s.id AND v.key = _key AND (v.expires IS NULL OR v.expires > a.now)
    WHERE left(s.owner, 256) = left(a.owner, 256) AND s.owner = a.owner;
END $$;

CREATE FUNCTION has_value(a access, _key bytea) RETURNS TABLE (
    expires double precision, ended_at double precision, is_there boolean
) LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT s.expires, when_ended(s, a), EXISTS (
        SELECT 1 FROM "values" v
        WHERE v.session = s.id AND v.key = _key AND (v.expires IS NULL OR v.expires > a.now)
    )
    FROM sessions s WHERE left(s.owner, 256) = left(a.owner, 256) AND s.owner = a.owner;
END $$;

-- In the order of an index, so that a few keys of many are found without the others. The limit is null for all.
CREATE FUNCTION list_keys(a access, _limit bigint, _newest_first boolean) RETURNS TABLE (
    expires double precision, ended_at double precision, key bytea
) LANGUAGE plpgsql STABLE :settings SET enable_sort = off AS $$
DECLARE
    own sessions;
BEGIN
    SELECT * INTO own FROM sessions s WHERE left(s.owner, 256) = left(a.owner, 256) AND s.owner = a.owner;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    expires := own.expires;
    ended_at := when_ended(own, a);
    IF _newest_first THEN
        RETURN QUERY SELECT own.expires, ended_at, v.key FROM "values" v
        WHERE v.session = own.id AND (v.expires IS NULL OR v.expires > a.now) ORDER BY v.position DESC LIMIT _limit;
    ELSE
        RETURN QUERY SELECT own.expires, ended_at, v.key FROM "values" v
        WHERE v.session = own.id AND (v.expires IS NULL OR v.expires > a.now) ORDER BY v.position LIMIT _limit;
    END IF;
    IF NOT FOUND THEN
        RETURN NEXT;
    END IF;
END $$;

CREATE FUNCTION list_values(a access) RETURNS TABLE (
    expires double precision, ended_at double precision,
    key bytea, payload bytea, buffers_name text, buffers bytea
) LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT s.expires, when_ended(s, a), v.key, v.payload, v.buffers_name, v.buffers
    FROM sessions s LEFT JOIN "values" v ON v.session = s.id AND (v.expires IS NULL OR v.expires > a.now)
    WHERE left(s.owner, 256) = left(a.owner, 256) AND s.owner = a.owner ORDER BY v.position;
END $$;

-- What is counted of a session includes the values that have expired by themselves and are not deleted yet.
CREATE FUNCTION count_expired(s sessions, _now double precision, OUT bytes bigint, OUT keys bigint)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT COALESCE(SUM(v.bytes), 0), COUNT(*) INTO bytes, keys FROM "values" v
    WHERE v.session = s.id AND v.expires <= _now;
END $$;

CREATE FUNCTION stat_session(a access) RETURNS TABLE (
    expires double precision, ended_at double precision, bytes bigint, keys bigint, user_hash bytea
) LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT s.expires, when_ended(s, a), s.bytes - expired.bytes, s.keys - expired.keys, s.user_hash
    FROM sessions s, count_expired(s, a.now) expired
    WHERE left(s.owner, 256) = left(a.owner, 256) AND s.owner = a.owner;
END $$;

CREATE FUNCTION list_sessions(_user_hash bytea, _now double precision) RETURNS TABLE (
    owner text, session bytea, created_at double precision, expires double precision, bytes bigint
) LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT s.owner, s.session, s.created_at, s.expires, s.bytes - expired.bytes
    FROM sessions s, count_expired(s, _now) expired
    WHERE s.user_hash = _user_hash AND s.expires > _now ORDER BY s.created_at, s.owner;
END $$;

CREATE FUNCTION list_owners(_prefix text, _now double precision) RETURNS TABLE (owner text)
LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT s.owner FROM sessions s, count_expired(s, _now) expired
    WHERE left(s.owner, 256) >= left(_prefix, 256) AND starts_with(s.owner, _prefix)
    AND s.expires > _now AND s.keys > expired.keys ORDER BY s.owner;
END $$;

CREATE FUNCTION list_all_owners(_after text) RETURNS TABLE (owner text) LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT s.owner FROM sessions s
    WHERE left(s.owner, 256) >= left(_after, 256) AND s.owner > _after
    ORDER BY left(s.owner, 256), s.owner LIMIT 1000;
END $$;

CREATE FUNCTION dump_session(_owner text) RETURNS TABLE (
    expires double precision, session bytea, renewed_at double precision, user_hash bytea, created_at double precision,
    key bytea, payload bytea, buffers_name text, buffers bytea, key_expires double precision
) LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT s.expires, s.session, s.renewed_at, s.user_hash, s.created_at,
        v.key, v.payload, v.buffers_name, v.buffers, v.expires
    FROM sessions s LEFT JOIN "values" v ON v.session = s.id
    WHERE left(s.owner, 256) = left(_owner, 256) AND s.owner = _owner ORDER BY v.position;
END $$;

CREATE FUNCTION find_problems() RETURNS TABLE (problem text) LANGUAGE plpgsql STABLE :settings AS $$
BEGIN
    RETURN QUERY SELECT format(
        '%s has %s keys of %s bytes, of which %s and %s are counted.',
        s.owner, COUNT(v.key), COALESCE(SUM(v.bytes), 0), s.keys, s.bytes
    )
    FROM sessions s LEFT JOIN "values" v ON v.session = s.id
    GROUP BY s.id HAVING COUNT(v.key) <> s.keys OR COALESCE(SUM(v.bytes), 0) <> s.bytes;
    RETURN QUERY SELECT format('%s values belong to no owner.', COUNT(*)) FROM "values" v
    WHERE NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = v.session)
    AND NOT EXISTS (SELECT 1 FROM dropped d WHERE d.id = v.session) HAVING COUNT(*) > 0;
END $$;
