-- Moves hints that are due to the tails of their lanes.
-- ARGV  2 most   -> {'priority:id priority:id ...', microseconds until the next one is due or -1}   O(moved x log n)
local now = now_us()
local due = redis.call('ZRANGEBYSCORE', KEYS[8], '-inf', string.format('%d', now), 'LIMIT', 0, tonumber(ARGV[2]))
local lanes = {{}, {}, {}}
for _, member in ipairs(due) do
  table.insert(lanes[tonumber(member:sub(1, 1))], member:sub(3))
end
batched('ZREM', KEYS[8], due)
for p = 1, 3 do
  if #lanes[p] > 0 then
    batched('RPUSH', KEYS[1 + p], lanes[p])
    ring(p)
  end
end
local first = redis.call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')
local wait = first[2] and math.max(0, tonumber(first[2]) - now) or -1
return {table.concat(due, ' '), string.format('%d', wait)}
