-- Gives out a half-open permit of this epoch. One that ended well or badly stays used up; one that ran out does not.
-- ARGV  1 epoch   2 most   3 for how long   4 the permit's name   -> 1, or 0 where there is none
local r = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'successes', 'failures')
if r[1] ~= ARGV[1] or r[2] ~= 'half_open' then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', at(now))
if redis.call('ZCARD', KEYS[2]) + r[3] + r[4] >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[2], at(now + ARGV[3]), ARGV[4])
return 1
