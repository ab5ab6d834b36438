-- Returns all leases of consumers that are proven dead, with a crash mark each, and deletes those consumers.
-- In one script, because XGROUP DELCONSUMER drops pending entries silently.
-- KEYS: 1-3 lanes
-- ARGV: 1 marks  2 at most how many leases per call  then consumer names
-- Returns {leases returned, leases left}; call again while some are left.
-- Begins with PERSIST, which changes nothing: passes at maxmemory, where 6.2 refuses XGROUP as first write.
local GROUP, RETURNED = 'slots', 'returned'
local marks, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local moved, left = 0, 0
redis.call('PERSIST', KEYS[1])
for i = 3, #ARGV do
  for lane = 1, 3 do
    local leases = redis.call('XPENDING', KEYS[lane], GROUP, '-', '+', most, ARGV[i])
    for _, lease in ipairs(leases) do
      redis.call('XCLAIM', KEYS[lane], GROUP, RETURNED, 0, lease[1], 'RETRYCOUNT', lease[4] + marks, 'JUSTID')
      moved = moved + 1
    end
    if #leases < most then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[lane], GROUP, ARGV[i])
    else
      left = left + 1
    end
  end
end
return { moved, left }
