-- Who may come in. The secret itself is stored nowhere: `digest` is its SHA-256.
CREATE TABLE api_keys (
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    rate integer,
    daily integer,
    live boolean NOT NULL,
    id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    scopes text[] COLLATE "C" NOT NULL,
    digest bytea NOT NULL UNIQUE
);

-- Who works. `beats` rises each second while one lives; `reports` is its last word on its providers.
CREATE TABLE supervisors (
    joined_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    beats bigint NOT NULL DEFAULT 0,
    id text COLLATE "C" PRIMARY KEY,
    roles text[] COLLATE "C" NOT NULL,
    metrics_url text,
    reports json NOT NULL DEFAULT '[]'
) WITH (fillfactor = 50);

-- What operators have said of a provider; each runs out by itself.
CREATE TABLE provider_controls (
    pause_until timestamptz,
    forced_until timestamptz,
    provider text COLLATE "C" PRIMARY KEY,
    pause_reason text,
    forced_state text COLLATE "C"
);

-- The lists in use, and the Redis server that they were made on: one row or none.
CREATE TABLE queue_generation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    name text NOT NULL,
    run_id text NOT NULL,
    filled boolean NOT NULL DEFAULT false
);
