-- The file of a message that failed, was undelivered or expired. One a message; filed anew when it fails again.
CREATE TABLE dead_letters (
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    next_auto_retry_at timestamptz,
    attempts integer NOT NULL,
    redrives smallint NOT NULL,
    id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('open', 'redriven', 'archived', 'discarded', 'settled')),
    channel text COLLATE "C" NOT NULL,
    recipient text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    code text,
    provider text COLLATE "C",
    cause text NOT NULL,
    detail text,
    tags text[] COLLATE "C" NOT NULL
);
CREATE INDEX dead_letters_by_state ON dead_letters (state, created_at, id);
CREATE INDEX dead_letters_by_age ON dead_letters (created_at, id);
CREATE INDEX dead_letters_to_retry ON dead_letters (next_auto_retry_at) WHERE next_auto_retry_at IS NOT NULL;

-- Redrive, archive or discard in bulk. `scope` is the tenant whose dead letters it may touch; null: everybody's.
CREATE TABLE operations (
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    rate double precision,
    total integer NOT NULL,
    done integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    skipped integer NOT NULL DEFAULT 0,
    id text COLLATE "C" PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    scope text COLLATE "C",
    reason text,
    actor text
);
CREATE INDEX operations_running ON operations (due_at, id) WHERE state = 'running';

-- What it works on, in order. `result` is null until then, `done`, or why the item was left alone.
CREATE TABLE operation_items (
    position integer NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    result text COLLATE "C",
    PRIMARY KEY (operation_id, position)
);
CREATE INDEX operation_items_left ON operation_items (operation_id, position) WHERE result IS NULL;
CREATE INDEX operation_items_failed ON operation_items (operation_id, position) WHERE result <> 'done';

-- Final messages moved out of the tables above: whole rows as documents, and of the dead letter what lists filter by.
-- One partition for each month in which its messages were accepted, made when first needed and dropped whole.
CREATE TABLE archive (
    archived_at timestamptz NOT NULL DEFAULT now(),
    letter_created_at timestamptz,
    letter_updated_at timestamptz,
    letter_attempts integer,
    letter_redrives smallint,
    id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    recipient text COLLATE "C" NOT NULL,
    tags text[] COLLATE "C" NOT NULL,
    letter_state text COLLATE "C",
    letter_reason text COLLATE "C",
    letter_code text,
    letter_provider text COLLATE "C",
    letter_cause text,
    letter_detail text,
    message json NOT NULL,
    content json NOT NULL,
    attempts json NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX archive_letters ON archive (letter_created_at, id) WHERE letter_state IS NOT NULL;
