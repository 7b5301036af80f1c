-- When a provider was last resumed: supervisors forget then what it had asked for by Retry-After.
ALTER TABLE provider_controls ADD COLUMN resumed_at timestamptz;
