-- Writes the name of the generation in use.
-- KEYS  1 the generation's marker   ARGV  1 its name   -> the name before, or ''
local before = redis.call('GET', KEYS[1]) or ''
if before ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end
return before
