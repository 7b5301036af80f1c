-- For a tenant's list among all others' dead letters: without it, one who has few would wait for all of them to be read.
CREATE INDEX dead_letters_by_tenant ON dead_letters (tenant, state, created_at, id);
