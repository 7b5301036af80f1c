-- A bucket and a ring are of one server. One that was left, and came back with what another had copied from it, still
-- has those of its own name, and they know nothing of what was handed out meanwhile: they are as good as lost.
-- KEYS  4 the name of the bucket that was used last   5 the bucket   6 the ring, where there is a quota
if redis.call('GET', KEYS[4]) ~= KEYS[5] then
  redis.call('DEL', KEYS[5], KEYS[6] or KEYS[5])
  redis.call('SET', KEYS[4], KEYS[5])
end
