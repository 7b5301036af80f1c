-- Stands before each script of the coordination. Times are microseconds of Redis' clock.
-- KEYS  1 a provider's breaker record (epoch, state, since, until, openings, successes, failures, refused)
--       2 its half-open permits by the time they run out   3 its pause, which runs out by itself   4 its bucket
--       5 the ring of its quota, where it has one
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function at(moment) return string.format('%d', moment) end

-- {'epoch state since until openings permits_out successes refused' or '', now, milliseconds paused or less than 0, ...}
local function word(...)
  local r = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'since', 'until', 'openings', 'successes', 'refused')
  local record = ''
  if r[1] then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', at(now))
    record = table.concat({r[1], r[2], r[3], r[4], r[5], redis.call('ZCARD', KEYS[2]), r[6], r[7] or ''}, ' ')
  end
  return {record, at(now), redis.call('PTTL', KEYS[3]), ...}
end
