-- Moves hints from a hand to the end of a provider's line.
-- KEYS  2-4 the line's lists, by priority   11 the providers that have a line
-- ARGV  2 the provider   3 ids to drop from the hand   4-6 ids for the line, by priority   -> nothing
for p = 1, 3 do batched('RPUSH', KEYS[1 + p], words(ARGV[3 + p])) end
redis.call('SADD', KEYS[11], ARGV[2])
batched('HDEL', KEYS[9], words(ARGV[3]))
return redis.status_reply('OK')
