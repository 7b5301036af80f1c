-- Drops hints from a hand, and puts others to the heads and the tails of the lanes and among the later ones.
-- ARGV  2 ids to drop   3-5 ids for the heads, 6-8 for the tails, by priority   9 later: microseconds, priority, id, ...
-- -> nothing          O(hints moved), and log n for each later one
-- What needs memory comes first: a full server refuses that, and only as long as nothing was written.
for p = 1, 3 do
  batched('LPUSH', KEYS[1 + p], reversed(words(ARGV[2 + p])))
  batched('RPUSH', KEYS[1 + p], words(ARGV[5 + p]))
end
if ARGV[9] ~= '' then
  local later, now, entries = words(ARGV[9]), now_us(), {}
  for i = 1, #later, 3 do
    entries[#entries + 1] = string.format('%d', now + tonumber(later[i]))
    entries[#entries + 1] = later[i + 1] .. ':' .. later[i + 2]
  end
  batched('ZADD', KEYS[8], entries)
end
batched('HDEL', KEYS[9], words(ARGV[2]))
for p = 1, 3 do ring(p) end
return redis.status_reply('OK')
