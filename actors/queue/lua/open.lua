-- Writes the name of the generation in use.
-- KEYS  1 the generation's marker   ARGV  1 its name   2 the only name whose place it may take, or '' for any
-- -> the name before, or ''
local before = redis.call('GET', KEYS[1]) or ''
if before == ARGV[1] then return before end
if ARGV[2] ~= '' and before ~= ARGV[2] then
  return redis.error_reply('STALE another generation of lists is in use')
end
redis.call('SET', KEYS[1], ARGV[1])
return before
