-- Where providers name an attempt by nothing but an id of their own, which one it is. Written with the outcome of such
-- an attempt, forgotten when no receipt is waited for any longer. One id may stand for a call of many messages.
CREATE TABLE provider_ids (
    noted_at timestamptz NOT NULL DEFAULT now(),
    number integer NOT NULL,
    provider text COLLATE "C" NOT NULL,
    provider_message_id text COLLATE "C" NOT NULL,
    recipient text COLLATE "C" NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (provider, provider_message_id, recipient, message_id, number)
);
CREATE INDEX provider_ids_by_age ON provider_ids (noted_at);

-- Receipts that say something of an attempt which is not written yet, or of which it cannot be told yet what they mean
-- for its message. Looked at again at `due_at`, ever more rarely, and dropped at `until`.
CREATE TABLE kept_receipts (
    due_at timestamptz NOT NULL,
    until timestamptz NOT NULL,
    looks smallint NOT NULL DEFAULT 0,
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text COLLATE "C" NOT NULL,
    receipt json NOT NULL
);
CREATE INDEX kept_receipts_due ON kept_receipts (due_at);

-- How far messages that are sent have been looked at for receipts that never came: one row or none.
CREATE TABLE receipts_awaited (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    looked_to timestamptz NOT NULL
);
