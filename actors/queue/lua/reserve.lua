-- Hands out send slots: `reserve` of policy/bucket.py, with the same numbers out.
-- ARGV  1 interval, in microseconds   2 usable burst   3 most   4 horizon, in microseconds   5 cost of a slot
--       6 how far ahead a lost bucket may have been   7 '1': take the bucket for lost
-- -> the breaker's word, when the next slot would be, 'slot slot ...'          O(slots)
local interval, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local horizon, cost = tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('HGET', KEYS[1], 'state') == 'open' or redis.call('EXISTS', KEYS[3]) == 1 then want = 0 end

local empty = now + tonumber(ARGV[6]) + burst * interval
local level = ARGV[7] == '0' and redis.call('GET', KEYS[4])
if level then empty = math.min(tonumber(level), empty) end

local slack, slots = (burst - cost) * interval, {}
while #slots < want do
  local slot = math.max(empty - slack, now)
  if slot > now + horizon then break end
  empty = math.max(empty, slot) + cost * interval
  slots[#slots + 1] = at(math.ceil(slot))
end
redis.call('SET', KEYS[4], at(math.ceil(empty)), 'PX', at(math.max(0, empty - now) / 1000 + 3600000))
return word(at(math.ceil(math.max(empty - slack, now))), table.concat(slots, ' '))
