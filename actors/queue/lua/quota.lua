-- A quota's ring, as policy/quota.py has it: a hash of `at`, `total`, the counts by their part's number modulo KEPT, and
-- `made`, when it was seeded, by which a ring is told from one that was lost.
local PARTS = 100
local KEPT = PARTS + 1

local function count(key, part) return tonumber(redis.call('HGET', key, at(part % KEPT)) or 0) end

-- Turns it to now -> the newest part, the total and `made`; nil where there is no ring.    O(parts that were left)
local function turned(key, length)
  local found = redis.call('HMGET', key, 'at', 'total', 'made')
  if not found[1] then return nil end
  local newest, total, number = tonumber(found[1]), tonumber(found[2]), math.floor(now / length)
  if number <= newest then return newest, total, found[3] end
  if number - newest >= KEPT then
    redis.call('DEL', key)
    total = 0
  else
    for part = newest + 1, number do
      total = total - count(key, part)
      redis.call('HDEL', key, at(part % KEPT))
    end
  end
  redis.call('HSET', key, 'at', at(number), 'total', at(total), 'made', found[3])
  redis.call('PEXPIRE', key, at(length * (KEPT + 1) / 1000 + 3600000))
  return number, total, found[3]
end

-- Takes out what was counted and not handed over: 'made part recipients part recipients ...' -> the total. What another
-- ring had counted is none of this one's.
local function given_back(key, newest, total, made, unused)
  if string.match(unused, '^%d+') ~= made then return total end
  unused = string.gsub(unused, '^%d+', '')
  for number, recipients in string.gmatch(unused, '(%d+) (%d+)') do
    if tonumber(number) > newest - KEPT then
      redis.call('HINCRBY', key, at(tonumber(number) % KEPT), '-' .. recipients)
      total = total - tonumber(recipients)
    end
  end
  redis.call('HSET', key, 'total', at(total))
  return total
end

-- When `cost` more fit beneath `allowed`.                                                O(parts)
local function opens(key, length, newest, total, allowed, cost)
  local missing = total + cost - allowed
  for part = newest - PARTS, newest do
    missing = missing - count(key, part)
    if missing <= 0 then return (part + KEPT) * length end
  end
  return (newest + KEPT) * length
end
