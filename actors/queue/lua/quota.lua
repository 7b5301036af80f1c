-- A quota's ring, as policy/quota.py has it: a hash of `at`, `total` and the counts by their part's number modulo KEPT.
local PARTS = 100
local KEPT = PARTS + 1

local function count(key, part) return tonumber(redis.call('HGET', key, at(part % KEPT)) or 0) end

-- Turns it to now -> the newest part and the total; nil where there is no ring.          O(parts that were left)
local function turned(key, length)
  local found = redis.call('HMGET', key, 'at', 'total')
  if not found[1] then return nil end
  local newest, total, number = tonumber(found[1]), tonumber(found[2]), math.floor(now / length)
  if number <= newest then return newest, total end
  if number - newest >= KEPT then
    redis.call('DEL', key)
    total = 0
  else
    for part = newest + 1, number do
      total = total - count(key, part)
      redis.call('HDEL', key, at(part % KEPT))
    end
  end
  redis.call('HSET', key, 'at', at(number), 'total', at(total))
  redis.call('PEXPIRE', key, at(length * (KEPT + 1) / 1000 + 3600000))
  return number, total
end

-- Takes out what was counted and not handed over: 'part recipients part recipients ...' -> the total.
local function given_back(key, newest, total, unused)
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
