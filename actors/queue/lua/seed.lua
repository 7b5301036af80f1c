-- Makes a quota's ring anew, where there is none.
-- KEYS  6 the ring   ARGV  1 length of a part, in microseconds   2 what was handed over, by age in parts: 'n n ...'
local length = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[6]) == 1 then return redis.status_reply('OK') end
local newest, total, age = math.floor(now / length), 0, 0
for recipients in string.gmatch(ARGV[2], '%d+') do
  if age >= KEPT then break end
  if recipients ~= '0' then redis.call('HSET', KEYS[6], at((newest - age) % KEPT), recipients) end
  total, age = total + tonumber(recipients), age + 1
end
redis.call('HSET', KEYS[6], 'at', at(newest), 'total', at(total), 'made', at(now))
redis.call('PEXPIRE', KEYS[6], at(length * (KEPT + 1) / 1000 + 3600000))
return redis.status_reply('OK')
