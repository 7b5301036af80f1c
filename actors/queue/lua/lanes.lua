-- Stands before each of the queue's scripts.
-- KEYS  1 the generation's marker   2-4 lanes, 5-7 bells (urgent, normal, bulk)   8 later   9 a hand   10 the hands' owners
-- ARGV  1 the generation that the caller means
-- Lists of ids travel as one string, separated by spaces: a thousand arguments cost the client more than the script.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('STALE another generation of lists is in use')
end

local function words(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do found[#found + 1] = word end
  return found
end

-- Lua's stack bounds how many arguments one command may have.
local function batched(command, key, items)
  for first = 1, #items, 1000 do
    redis.call(command, key, unpack(items, first, math.min(first + 999, #items)))
  end
end

local function reversed(items)
  local back = {}
  for i = #items, 1, -1 do back[#back + 1] = items[i] end
  return back
end

-- A bell holds one token while its lane holds anything, and none otherwise; whoever waits for the lane pops it, takes,
-- and this puts it back if something is left. So one push wakes one waiter, and a full lane wakes them all in turn.
local function ring(p)
  if redis.call('EXISTS', KEYS[1 + p]) == 0 then
    redis.call('DEL', KEYS[4 + p])
  elseif redis.call('EXISTS', KEYS[4 + p]) == 0 then
    redis.call('RPUSH', KEYS[4 + p], '1')
  end
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
