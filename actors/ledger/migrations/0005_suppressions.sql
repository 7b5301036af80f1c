-- Who is not written to. `folded` and `spelled` are what a message's recipient, its ASCII letters in lower case, is
-- compared with; `spelled` only where an internationalised domain has another spelling (policy/suppression.py).
CREATE TABLE suppressions (
    created_at timestamptz NOT NULL DEFAULT now(),
    id text COLLATE "C" PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    recipient text COLLATE "C" NOT NULL,
    folded text COLLATE "C" NOT NULL,
    spelled text COLLATE "C",
    reason text COLLATE "C" NOT NULL,
    detail text,
    provider text COLLATE "C",
    message_id text COLLATE "C",
    UNIQUE (tenant, channel, folded)
);
CREATE INDEX suppressions_by_spelling ON suppressions (tenant, channel, spelled) WHERE spelled IS NOT NULL;
CREATE INDEX suppressions_by_tenant ON suppressions (tenant, id);
CREATE INDEX suppressions_by_recipient ON suppressions (folded);

-- An entry looks for what waits for its recipient: by contents_by_recipient as it is mostly written, in lower case, and
-- by this where it is not.
CREATE INDEX contents_by_folded ON contents (lower(recipient), id) WHERE recipient <> lower(recipient);
