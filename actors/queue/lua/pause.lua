-- Pauses a provider; the longest pause holds, and 0 lifts it.
-- ARGV  1 milliseconds
local pause = tonumber(ARGV[1])
if pause <= 0 then
  redis.call('DEL', KEYS[3])
elseif pause > redis.call('PTTL', KEYS[3]) then
  redis.call('SET', KEYS[3], '1', 'PX', at(pause))
end
return redis.status_reply('OK')
