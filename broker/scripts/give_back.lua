-- Returns leases: unharmed (marks 0) or with a crash mark (marks 1). They wait under the consumer `returned`.
-- KEYS: 1-3 lanes
-- ARGV: 1 consumer  2 marks  then per job: lane, entry
-- Only leases this consumer still holds move; the delivery count is Redis' own, kept or raised by RETRYCOUNT.
local GROUP, RETURNED = 'slots', 'returned'
local moved = 0
for i = 3, #ARGV, 2 do
  local lane, entry = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local lease = redis.call('XPENDING', lane, GROUP, entry, entry, 1)[1]
  if lease and lease[2] == ARGV[1] then
    redis.call('XCLAIM', lane, GROUP, RETURNED, 0, entry, 'RETRYCOUNT', lease[4] + tonumber(ARGV[2]), 'JUSTID')
    moved = moved + 1
  end
end
return moved
