-- Returns the leases of slots that stopped renewing them (a dead host), each with a crash mark, and recounts the bytes.
-- KEYS: 1-3 lanes  4 counters  5 delayed  6 delayed bodies
-- ARGV: 1 lease_ms  2 at most how many leases per lane  3 recount only below this depth
-- Returns {leases returned, consumers deleted, bytes the counter was off by (0 when not recounted)}.
local GROUP, RETURNED = 'slots', 'returned'
local lease_ms, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local CONSUMER_IDLE_MS = 600000
local returned, deleted, drift = 0, 0, 0
for i = 1, 3 do
  local lane = KEYS[i]
  if redis.call('EXISTS', lane) == 1 then
    for _, lease in ipairs(redis.call('XPENDING', lane, GROUP, 'IDLE', lease_ms, '-', '+', most)) do
      if lease[2] ~= RETURNED then
        local count = lease[4] + 1
        local moved = redis.call('XCLAIM', lane, GROUP, RETURNED, lease_ms, lease[1], 'RETRYCOUNT', count, 'JUSTID')
        returned = returned + #moved
      end
    end
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', lane, GROUP)) do
      -- {'name', n, 'pending', p, 'idle', ms, ...}
      if consumer[2] ~= RETURNED and consumer[4] == 0 and consumer[6] > CONSUMER_IDLE_MS then
        redis.call('XGROUP', 'DELCONSUMER', lane, GROUP, consumer[2])
        deleted = deleted + 1
      end
    end
  end
end
local depth = redis.call('ZCARD', KEYS[5])
for i = 1, 3 do depth = depth + redis.call('XLEN', KEYS[i]) end
if depth <= tonumber(ARGV[3]) then
  local bytes = 0
  for i = 1, 3 do
    for _, entry in ipairs(redis.call('XRANGE', KEYS[i], '-', '+')) do bytes = bytes + #entry[2][2] end
  end
  for _, body in ipairs(redis.call('HVALS', KEYS[6])) do
    bytes = bytes + #body - #string.match(body, '^%d+ %d+ %d+ %d+ ')
  end
  local counted = tonumber(redis.call('HGET', KEYS[4], 'bytes') or 0)
  drift = bytes - counted
  if drift ~= 0 then redis.call('HINCRBY', KEYS[4], 'bytes', drift) end
end
return { returned, deleted, drift }
