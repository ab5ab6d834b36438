-- Claims jobs for one slot: returned leases first, then lanes by priority. Expired jobs are ended here, unrun.
-- KEYS: 1-4 as in finish.lua  5-7 lanes in wire order high, normal, low
-- ARGV: 1-4 as in finish.lua  5 consumer  6 room (jobs)  7 order of lanes, e.g. "123" or "321"; "" claims returned leases only
--       8 paused lanes, e.g. "3", which are left out, returned leases too; absent where there are none
-- Returns {now_ms, returned, lane 1 entries, lane 2 entries, lane 3 entries}; returned = flat {lane, deliveries, entry id,
--   fields, ...}; entries = {{entry id, fields}, ...} exactly as XREADGROUP gives them.
-- Begins with XREADGROUP or XPENDING: passes at maxmemory.
local consumer, room, paused = ARGV[5], tonumber(ARGV[6]), ARGV[8]
local returned, fresh = {}, { {}, {}, {} }
local EXPIRED = 4
local WORN = 3 -- MOST_MARKS of broker/claimed.py: one more mark ends the job, so it is claimed alone and none dies for another

local function is_paused(i)
  return paused and string.find(paused, i, 1, true)
end

-- Ends the job unrun when its deadline has passed. True when it did.
local function expire(lane, entry)
  local fields = entry[2]
  if not fields[3] then return false end
  local deadline, attempt, submitted = read_meta(entry[1], fields[4])
  if deadline == 0 or deadline > now_ms then return false end
  if redis.call('XACK', lane, GROUP, entry[1]) == 1 then
    redis.call('XDEL', lane, entry[1])
    local id, ttl_s = read_job(fields[2])
    finish(id, 'expired', ttl_s, bytes_freed(fields[2]), failure(id, EXPIRED, attempt, now_ms - submitted, 'deadline',
      string.format('the deadline passed %d ms ago, before the forward began', now_ms - deadline)))
  end
  return true
end

for i = 1, 3 do
  if room <= 0 then break end
  local lane = KEYS[4 + i]
  local leases = is_paused(i) and {} or redis.call('XPENDING', lane, GROUP, '-', '+', room, RETURNED)
  for _, lease in ipairs(leases) do
    if room <= 0 then break end
    local is_worn = lease[4] == WORN
    if not is_worn or #returned == 0 then
      local claimed = redis.call('XCLAIM', lane, GROUP, consumer, 0, lease[1], 'RETRYCOUNT', lease[4])
      local entry = claimed[1]
      if not entry or not entry[2] then
        redis.call('XACK', lane, GROUP, lease[1]) -- deleted while it was returned: nothing is left to run
      elseif not expire(lane, entry) then
        returned[#returned + 1] = i
        returned[#returned + 1] = lease[4]
        returned[#returned + 1] = entry[1]
        returned[#returned + 1] = entry[2]
        room = is_worn and 0 or room - 1
      end
    end
  end
end

for digit in string.gmatch(ARGV[7], '%d') do
  if room <= 0 then break end
  local i = tonumber(digit)
  local lane = KEYS[4 + i]
  local read = not is_paused(i) and redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', room, 'STREAMS', lane, '>')
  if read then
    local entries = read[1][2]
    local has_expired = false
    for j = 1, #entries do
      if expire(lane, entries[j]) then
        entries[j] = false
        has_expired = true
      end
    end
    if has_expired then
      local live = {}
      for j = 1, #entries do
        if entries[j] then live[#live + 1] = entries[j] end
      end
      entries = live
    end
    fresh[i] = entries
    room = room - #entries
  end
end
flush()
return { string.format('%.0f', now_ms), returned, fresh[1], fresh[2], fresh[3] }
