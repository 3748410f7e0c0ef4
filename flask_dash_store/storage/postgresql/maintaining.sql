-- Removes a little of what has expired, of _limit owners at most. With a _timeout_ms of 0 it passes over those whose
-- locks others hold. An owner found by a query may have been used again before it was locked, so it is looked at again.
CREATE FUNCTION maintain(
    _now double precision, _ended_before double precision, _prefix text, _latest double precision, _limit bigint,
    _timeout_ms integer, OUT owners bigint, OUT keys bigint, OUT has_more boolean
) LANGUAGE plpgsql :settings AS $$
DECLARE
    past record;
    own sessions;
    found_now bigint;
BEGIN
    owners := 0;
    keys := 0;
    has_more := false;

    -- What was dropped
    FOR past IN SELECT d.id FROM dropped d ORDER BY d.id LIMIT 1 FOR UPDATE SKIP LOCKED LOOP
        DELETE FROM "values" v
        WHERE v.ctid = ANY (ARRAY(SELECT w.ctid FROM "values" w WHERE w.session = past.id LIMIT 1000));
        GET DIAGNOSTICS found_now = ROW_COUNT;
        has_more := true;
        IF found_now < 1000 THEN
            DELETE FROM dropped d WHERE d.id = past.id;
            has_more := EXISTS (SELECT 1 FROM dropped);
        END IF;
    END LOOP;

    -- What expires too late
    found_now := 0;
    FOR past IN
        SELECT s.id FROM sessions s
        WHERE s.expires > _latest AND s.expires < 'infinity' AND starts_with(s.owner, _prefix)
        AND lock_owner(s.owner, _timeout_ms, false) LIMIT _limit
    LOOP
        found_now := found_now + 1;
        UPDATE sessions s SET expires = _latest WHERE s.id = past.id AND s.expires > _latest;
    END LOOP;
    has_more := has_more OR found_now = _limit;

    -- Owners that have expired. Those whose ids could still be replayed are remembered for longer.
    found_now := 0;
    FOR past IN
        SELECT both_kinds.id FROM (
            SELECT s.id, s.owner FROM sessions s WHERE s.expires <= _now
            UNION ALL SELECT s.id, s.owner FROM sessions s WHERE s.expires IS NULL AND s.renewed_at < _ended_before
        ) both_kinds WHERE lock_owner(both_kinds.owner, _timeout_ms, false) LIMIT _limit
    LOOP
        found_now := found_now + 1;
        SELECT * INTO own FROM sessions s
        WHERE s.id = past.id AND (s.expires <= _now OR s.expires IS NULL AND s.renewed_at < _ended_before);
        CONTINUE WHEN NOT FOUND;
        own := drop_values(own);
        IF own.renewed_at >= _ended_before THEN
            UPDATE sessions s SET expires = NULL, user_hash = NULL, bytes = 0, keys = 0 WHERE s.id = own.id;
        ELSE
            DELETE FROM sessions s WHERE s.id = own.id;
        END IF;
        owners := owners + 1;
    END LOOP;
    has_more := has_more OR found_now = _limit;

    -- Keys that have expired by themselves
    found_now := 0;
    FOR past IN
        SELECT s.id FROM sessions s
        WHERE s.id IN (SELECT v.session FROM "values" v WHERE v.expires <= _now LIMIT 1000)
        AND lock_owner(s.owner, _timeout_ms, false) LIMIT _limit
    LOOP
        found_now := found_now + 1;
        SELECT * INTO own FROM sessions s WHERE s.id = past.id;
        CONTINUE WHEN NOT FOUND;
        keys := keys + own.keys;
        own := drop_expired_values(own, _now);
        keys := keys - own.keys;
        PERFORM save_counts(own);
    END LOOP;
    has_more := has_more OR found_now = _limit;
END $$;
