-- What keys with limits have sent (policy/allowance.py): the level of the bucket of their rate in microseconds, and
-- messages of one day, counted in days, both since 1970-01-01 UTC.
CREATE TABLE key_usage (
    level_us bigint NOT NULL DEFAULT 0,
    used bigint NOT NULL DEFAULT 0,
    day integer NOT NULL DEFAULT 0,
    key_id text COLLATE "C" PRIMARY KEY
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
