-- Moves hints from a hand to the heads of their lanes, if they are still there, so that many may do it at once.
-- ARGV  2 the hand's owner   3 ids, or '' for any thousand of them   -> how many          O(hints moved)
local ids = words(ARGV[3])
if #ids == 0 then
  ids = redis.call('HRANDFIELD', KEYS[9], 1000)
  table.sort(ids)
end
local lanes, moved = {{}, {}, {}}, 0
for i = #ids, 1, -1 do
  local p = redis.call('HGET', KEYS[9], ids[i])
  if p then
    table.insert(lanes[tonumber(p)], ids[i])
    moved = moved + 1
  end
end
batched('HDEL', KEYS[9], ids)
for p = 1, 3 do
  batched('LPUSH', KEYS[1 + p], lanes[p])
  ring(p)
end
if redis.call('EXISTS', KEYS[9]) == 0 then redis.call('SREM', KEYS[10], ARGV[2]) end
return moved
