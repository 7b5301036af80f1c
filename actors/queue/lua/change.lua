-- Writes the record where it still has the epoch expected; a missing one has 0. Permits of the old epoch are void.
-- ARGV  1 epoch expected   2 the new one   3 state   4 how long ago it began   5 until, from now   6 openings
--       7 refused
-- -> the breaker's word
if (redis.call('HGET', KEYS[1], 'epoch') or '0') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'state', ARGV[3], 'since', at(now - ARGV[4]),
    'until', at(now + ARGV[5]), 'openings', ARGV[6], 'successes', 0, 'failures', 0, 'refused', ARGV[7])
  redis.call('DEL', KEYS[2])
end
return word()
