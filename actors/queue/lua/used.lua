-- Reads a quota's ring.
-- KEYS  6 the ring   ARGV  1 length of a part, in microseconds   2 what was counted and not handed over: 'made part recipients ...'
-- -> what is used of it, less than 0 where there is no ring
local part, total, made = turned(KEYS[6], tonumber(ARGV[1]))
if not part then return -1 end
return given_back(KEYS[6], part, total, made, ARGV[2])
