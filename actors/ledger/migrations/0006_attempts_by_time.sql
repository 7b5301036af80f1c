-- For counting what a provider was handed within a quota's window. The log grows in about the order of time, so a few
-- numbers for each run of pages tell which of them matter, and writing it costs next to nothing.
CREATE INDEX attempts_by_time ON attempts USING brin (finished_at) WITH (pages_per_range = 32, autosummarize = on);
