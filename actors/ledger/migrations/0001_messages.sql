-- A message and what becomes of it. Text ids sort by time, so they compare by bytes (COLLATE "C").
-- No foreign keys: each commit writes all that belongs together, and checking it again costs as much as writing it.

-- What was posted. Never changes, but that its body (content) is taken out when it is old.
CREATE TABLE contents (
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    send_at timestamptz,
    parts smallint,
    live boolean NOT NULL,
    id text COLLATE "C" PRIMARY KEY,
    channel text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    category text COLLATE "C" NOT NULL,
    recipient text COLLATE "C" NOT NULL,
    content json,
    metadata json,
    tags text[] COLLATE "C" NOT NULL,
    providers text[] COLLATE "C",
    webhook_url text,
    traceparent text
);
CREATE INDEX contents_by_channel ON contents (channel, id);
CREATE INDEX contents_by_tenant ON contents (tenant, id);
CREATE INDEX contents_by_recipient ON contents (recipient, id);
CREATE INDEX contents_by_tag ON contents USING gin (tags) WITH (fastupdate = on) WHERE tags <> '{}';

-- Where each message stands: one narrow row. `sending` is never stored: it is `queued` with an open claim.
-- `landed` is the late-truth mark: the provider of an earlier attempt that turned out to be accepted while a newer one
-- was under way. `touched_by` is the supervisor that accepted or moved it last and may owe its hint.
CREATE TABLE messages (
    due_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    counted smallint NOT NULL DEFAULT 0,
    unknowns smallint NOT NULL DEFAULT 0,
    throttled smallint NOT NULL DEFAULT 0,
    reclaims smallint NOT NULL DEFAULT 0,
    passes smallint NOT NULL DEFAULT 0,
    redrives smallint NOT NULL DEFAULT 0,
    unsettled integer,
    stripped boolean NOT NULL DEFAULT false,
    id text COLLATE "C" PRIMARY KEY,
    channel text COLLATE "C" NOT NULL,
    priority text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN (
        'scheduled', 'queued', 'sent', 'delivered', 'undelivered', 'failed', 'expired', 'cancelled', 'suppressed'
    )),
    provider text COLLATE "C",
    reason text COLLATE "C",
    waiting_for text COLLATE "C",
    waiting_provider text COLLATE "C",
    unsettled_provider text COLLATE "C",
    tried text[] COLLATE "C",
    landed text COLLATE "C",
    touched_by text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
-- A move out of waiting writes the row anew at another place whatever we do, because it leaves these two.
CREATE INDEX messages_waiting ON messages (channel, priority, due_at, id) WHERE state IN ('queued', 'scheduled');
CREATE INDEX messages_expiry ON messages (expires_at) WHERE state IN ('queued', 'scheduled');
-- For what age does to them. Grows at its right end only, which is cheap.
CREATE INDEX messages_at_rest ON messages (stripped, updated_at) WHERE state NOT IN ('queued', 'scheduled');
-- For lists by a state that may be rare; the common one is found on the way through contents.
CREATE INDEX messages_rare ON messages (state, id) WHERE state NOT IN ('queued', 'sent');

-- The open right to one call; deleted with its outcome.
CREATE TABLE claims (
    started_at timestamptz NOT NULL,
    reclaim_at timestamptz NOT NULL,
    number integer NOT NULL,
    message_id text COLLATE "C" PRIMARY KEY,
    channel text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    supervisor text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- The log: one row for each attempt that ended.
CREATE TABLE attempts (
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    settled_at timestamptz,
    number integer NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    settled text COLLATE "C",
    code text,
    detail text,
    provider_message_id text COLLATE "C",
    PRIMARY KEY (message_id, number)
);

-- Answers already given under an Idempotency-Key.
CREATE TABLE idempotency (
    created_at timestamptz NOT NULL DEFAULT now(),
    status smallint NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    route text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (key_id, route, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- Counters, kept by each commit; a total is the sum over all writers. Each connection writes rows of its own, so that
-- commits do not wait for one another. `counted` is a state, `accepted`, `dead_letter/<reason>` (open ones),
-- `archive/<partition>` or `dropped` (archived messages deleted on schedule). `present` may be below 0 in one row.
CREATE TABLE tallies (
    updated_at timestamptz NOT NULL DEFAULT now(),
    present bigint NOT NULL DEFAULT 0,
    entered bigint NOT NULL DEFAULT 0,
    writer text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    counted text COLLATE "C" NOT NULL,
    PRIMARY KEY (writer, channel, counted)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
