-- Ends a permit, once.
-- ARGV  1 epoch   2 the permit's name   3 success, failure or returned
-- -> the breaker's word, or nothing where the record is of another epoch
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return false end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', at(now))
if redis.call('ZREM', KEYS[2], ARGV[2]) == 1 then
  if ARGV[3] == 'success' then redis.call('HINCRBY', KEYS[1], 'successes', 1) end
  if ARGV[3] == 'failure' then redis.call('HINCRBY', KEYS[1], 'failures', 1) end
end
return word()
