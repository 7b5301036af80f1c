-- Hands out send slots: `reserve` of policy/bucket.py, with the same numbers out.
-- ARGV  1 interval, in microseconds   2 usable burst   3 most   4 horizon, in microseconds   5 cost of a slot
--       6 how far ahead a lost bucket may have been   7 '1': take the bucket, and the quota's ring, for lost
--       with a quota:   8 length of a part, in microseconds   9 how much may be used of it
--       10 what was counted and not handed over: 'made part recipients part recipients ...'
-- -> the breaker's word, when the next slot would be, 'slot slot ...', and of the quota '' or
--    'used made part opens' (opens: 0 where it binds nothing), or 'lost'             O(slots)
local interval, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local horizon, cost = tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('HGET', KEYS[1], 'state') == 'open' or redis.call('EXISTS', KEYS[3]) == 1 then want = 0 end

local empty = now + tonumber(ARGV[6]) + burst * interval
local level = ARGV[7] == '0' and redis.call('GET', KEYS[5])
if level then empty = math.min(tonumber(level), empty) end

local used, part, made, room
if KEYS[6] then
  if ARGV[7] ~= '0' then redis.call('DEL', KEYS[6]) end
  part, used, made = turned(KEYS[6], tonumber(ARGV[8]))
  if not part then
    want = 0
  else
    used = given_back(KEYS[6], part, used, made, ARGV[10])
    room = math.max(0, math.floor((tonumber(ARGV[9]) - used) / cost))
  end
end

local binds = room and room < want
if binds then want = room end

local slack, slots = (burst - cost) * interval, {}
while #slots < want do
  local slot = math.max(empty - slack, now)
  if slot > now + horizon then break end
  empty = math.max(empty, slot) + cost * interval
  slots[#slots + 1] = at(math.ceil(slot))
end
redis.call('SET', KEYS[5], at(math.ceil(empty)), 'PX', at(math.max(0, empty - now) / 1000 + 86400000))
local quota = ''
if KEYS[6] and not part then
  quota = 'lost'
elseif part then
  local taken = #slots * cost
  used = used + taken
  if taken > 0 then redis.call('HINCRBY', KEYS[6], at(part % KEPT), at(taken)) end
  redis.call('HSET', KEYS[6], 'total', at(used))
  local free = 0
  if binds and #slots == want then free = opens(KEYS[6], tonumber(ARGV[8]), part, used, tonumber(ARGV[9]), cost) end
  quota = at(used) .. ' ' .. made .. ' ' .. at(part) .. ' ' .. at(free)
end
return word(at(math.ceil(math.max(empty - slack, now))), table.concat(slots, ' '), quota)
