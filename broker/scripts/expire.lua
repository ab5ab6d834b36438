-- Ends, unrun, jobs past their deadline in one page of a paused lane: nobody claims from it, where they would end otherwise.
-- KEYS: 1-4 as in finish.lua  5 lane  6 ready
-- ARGV: 1-4 as in finish.lua  5 slot  6 where to go on: '-', or the cursor of the answer before  7 at most how many entries
--       8 and bytes
-- Returns {jobs ended, cursor}: the cursor '-' behind the last page, and where it is another slot's work: that is the
-- first by name of those ready, so that the queue is read once and not by every slot.
-- Begins with XACK, which frees: passes at maxmemory.
-- Bodies are copied into Lua, and one may be as large as a payload: 8 entries are read at once only while they are small.
local PAGE, SMALL_BYTES = 8, 65536
local EXPIRED = 4
local lane, slot, from = KEYS[5], ARGV[5], ARGV[6]
local most, left = tonumber(ARGV[7]), tonumber(ARGV[8])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '(' .. string.format('%.0f', now_ms), '+inf')) do
  if name < slot then return { 0, '-' } end
end

local function expire(entry)
  local fields = entry[2]
  if not fields[3] then return false end
  local deadline, attempt, submitted = read_meta(entry[1], fields[4])
  if deadline == 0 or deadline > now_ms then return false end
  local lease = redis.call('XPENDING', lane, GROUP, entry[1], entry[1], 1)[1]
  if lease and lease[2] ~= RETURNED then return false end -- in a slot's hand, which ends it
  redis.call('XACK', lane, GROUP, entry[1])
  if redis.call('XDEL', lane, entry[1]) == 0 then return false end
  local id, ttl_s = read_job(fields[2])
  finish(id, 'expired', ttl_s, bytes_freed(fields[2]), failure(id, EXPIRED, attempt, now_ms - submitted, 'deadline',
    string.format('the deadline passed %.0f ms ago, while its lane was paused', now_ms - deadline)))
  return true
end

local seen, count, gone = 0, 1, 0
if from ~= '-' then from = '(' .. from end
while seen < most and left > 0 do
  local page, bytes = redis.call('XRANGE', lane, from, '+', 'COUNT', count), 0
  for _, entry in ipairs(page) do
    bytes = bytes + #entry[2][2]
    from = '(' .. entry[1]
    if expire(entry) then gone = gone + 1 end
  end
  seen = seen + #page
  if #page < count then
    from = '(-'
    break
  end
  left = left - bytes
  count = bytes <= SMALL_BYTES and PAGE or 1
end
flush()
return { gone, string.sub(from, 2) }
