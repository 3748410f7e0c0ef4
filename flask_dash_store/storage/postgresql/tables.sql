-- The tables of the PostgreSQL storage. Times are seconds since the epoch, and infinity for never.

CREATE TABLE sessions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- under which its values lie; another one when all are dropped
    owner text COLLATE "C" NOT NULL,
    session bytea,  -- the SHA-256 of the id that opens it; empty once it has ended, null for the values of a user id
    renewed_at double precision,  -- when it was renewed or ended last
    user_hash bytea,
    created_at double precision NOT NULL,
    expires double precision,  -- null for one whose values have gone, which is remembered because its id was replaced
    bytes bigint NOT NULL DEFAULT 0,
    keys bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);

-- An index entry has room for about 2700 bytes, and the owner of a long user id is longer. So two owners may meet in
-- the index, and the whole name decides.
CREATE INDEX sessions_by_owner ON sessions (left(owner, 256));
CREATE INDEX sessions_by_expiry ON sessions (expires);
CREATE INDEX sessions_by_renewal ON sessions (renewed_at) WHERE expires IS NULL;
CREATE INDEX sessions_by_user ON sessions (user_hash) WHERE user_hash IS NOT NULL;

CREATE TABLE "values" (
    session bigint NOT NULL,
    key bytea NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    expires double precision,  -- null for one that expires with its owner alone
    bytes integer GENERATED ALWAYS AS
        (octet_length(key) + octet_length(payload) + COALESCE(octet_length(buffers), 0)) STORED,
    payload bytea NOT NULL,
    buffers_name text,
    buffers bytea,
    PRIMARY KEY (session, key)
) WITH (fillfactor = 80);

CREATE INDEX values_by_position ON "values" (session, position);
CREATE INDEX values_by_expiry ON "values" (expires) WHERE expires IS NOT NULL;
CREATE INDEX values_by_session_and_expiry ON "values" (session, expires) WHERE expires IS NOT NULL;

-- What is large lies beside the row, and uncompressed: NumPy's buffers shrink little, and that costs much.
ALTER TABLE "values" ALTER payload SET STORAGE EXTERNAL, ALTER buffers SET STORAGE EXTERNAL;

-- The ids under which values lie that belong to no owner any more. Maintenance deletes them.
CREATE TABLE dropped (id bigint PRIMARY KEY);

CREATE TABLE format (number integer NOT NULL);

-- The first argument of the functions about one owner: whose values, what time it is, and how long to wait for a lock.
CREATE TYPE access AS (
    owner text,
    session bytea,
    now double precision,
    expires double precision,
    touch_threshold double precision,
    timeout_ms integer,
    is_durable boolean
);
