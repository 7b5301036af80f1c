-- Moves hints from the heads of the lanes into a hand, urgent first.
-- ARGV  2 the hand's owner   3 most   4-6 room of each priority   7 '1': begin at the lowest lane that holds anything
-- -> {priority, ids, priority, ids, ...} in the order taken          O(hints moved)
local most = tonumber(ARGV[3])
local order = {1, 2, 3}
if ARGV[7] == '1' then
  for p = 3, 1, -1 do
    if tonumber(ARGV[3 + p]) > 0 and redis.call('EXISTS', KEYS[1 + p]) == 1 then
      table.remove(order, p)
      table.insert(order, 1, p)
      break
    end
  end
end
local taken = {}
for _, p in ipairs(order) do
  local room = math.min(most, tonumber(ARGV[3 + p]))
  local ids = room > 0 and redis.call('LPOP', KEYS[1 + p], room)
  if ids then
    local entries = {}
    for _, id in ipairs(ids) do
      entries[#entries + 1] = id
      entries[#entries + 1] = p
    end
    batched('HSET', KEYS[9], entries)
    taken[#taken + 1] = tostring(p)
    taken[#taken + 1] = table.concat(ids, ' ')
    most = most - #ids
  end
  ring(p)
end
if #taken > 0 then redis.call('SADD', KEYS[10], ARGV[2]) end
return taken
