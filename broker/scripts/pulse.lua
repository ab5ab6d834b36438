-- One beat of a slot toward its model: readiness, leases. Begins with ZREM, which frees: passes at maxmemory.
-- KEYS: 1 ready  2 failing  3 retiring  4-6 lanes
-- ARGV: 1 slot  2 consumer  3 ready_ms (0: not ready)  4 failing_ms (0: not failing)  5 free the retiring place (1)
--       6 key of paused: slots may read it only, and what is given in KEYS counts as written to
--       then per held lease: lane, entry
-- Returns {now_ms, leases lost, names of paused lanes}: lost leases are no longer ours; their outcomes will change nothing.
local GROUP = 'slots'
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function note(key, ttl)
  redis.call('ZREM', key, ARGV[1])
  if ttl > 0 then redis.call('ZADD', key, now_ms + ttl, ARGV[1]) end
end
note(KEYS[1], tonumber(ARGV[3]))
note(KEYS[2], tonumber(ARGV[4]))
if ARGV[5] == '1' then redis.call('ZREM', KEYS[3], ARGV[1]) end
local lost = 0
for i = 7, #ARGV, 2 do
  local lane, entry = KEYS[3 + tonumber(ARGV[i])], ARGV[i + 1]
  local lease = redis.call('XPENDING', lane, GROUP, entry, entry, 1)[1]
  if lease and lease[2] == ARGV[2] then
    redis.call('XCLAIM', lane, GROUP, ARGV[2], 0, entry, 'RETRYCOUNT', lease[4], 'JUSTID')
  else
    lost = lost + 1
  end
end
return { string.format('%.0f', now_ms), lost, redis.call('HKEYS', ARGV[6]) }
