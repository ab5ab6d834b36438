-- Returns the leases of slots that stopped renewing them (a dead host), each with a crash mark, and recounts the bytes.
-- KEYS: 1-3 lanes  4 counters  5 delayed  6 delayed bodies
-- ARGV: 1 lease_ms  2 at most how many leases per lane  3 recount only up to this depth
--       4 Redis' time in ms when the caller sent this (0: unknown)
-- Returns {leases returned, consumers deleted, bytes the counter was off by (0 when not recounted)}.
-- Begins with PERSIST, which changes nothing: passes at maxmemory, where XGROUP and HINCRBY as first writes would not.
local GROUP, RETURNED = 'slots', 'returned'
local lease_ms, most = tonumber(ARGV[1]), tonumber(ARGV[2])
-- A server that stood still (SIGSTOP, a slow script) runs what waited in any order: a sweep must not come before the renewals
-- of leases that ended meanwhile. So one that is late does nothing; the next one will do.
local sent_ms, time = tonumber(ARGV[4]), redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if sent_ms > 0 and now_ms - sent_ms > math.max(2000, lease_ms / 3) then return { 0, 0, 0 } end
local CONSUMER_IDLE_MS = 600000
local RECOUNT_MAX_BYTES, PAGE = 4 * 1024 * 1024, 8 -- reading more would hold Redis up
local returned, deleted, drift = 0, 0, 0
redis.call('PERSIST', KEYS[4])
for i = 1, 3 do
  local lane = KEYS[i]
  if redis.call('EXISTS', lane) == 1 then
    local left = most
    -- Consumer by consumer: leases already returned must not fill the count and hide those that are lost.
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', lane, GROUP)) do
      -- {'name', n, 'pending', p, 'idle', ms, ...}
      local name = consumer[2]
      if name ~= RETURNED and consumer[4] > 0 and left > 0 then
        for _, lease in ipairs(redis.call('XPENDING', lane, GROUP, 'IDLE', lease_ms, '-', '+', left, name)) do
          local count = lease[4] + 1
          local moved = redis.call('XCLAIM', lane, GROUP, RETURNED, lease_ms, lease[1], 'RETRYCOUNT', count, 'JUSTID')
          returned = returned + #moved
          left = left - 1
        end
      elseif name ~= RETURNED and consumer[4] == 0 and consumer[6] > CONSUMER_IDLE_MS then
        redis.call('XGROUP', 'DELCONSUMER', lane, GROUP, name)
        deleted = deleted + 1
      end
    end
  end
end

-- Bytes of all queued jobs; nil when there are more than one script should read.
local function recount()
  local bytes, apart = 0, 0 -- what was read, and what stands apart from it
  for i = 1, 3 do
    local from, page = '-', nil
    repeat
      page = redis.call('XRANGE', KEYS[i], from, '+', 'COUNT', PAGE)
      for _, entry in ipairs(page) do
        bytes = bytes + #entry[2][2]
        apart = apart + body_size(entry[2][2])
        from = '(' .. entry[1]
      end
      if bytes > RECOUNT_MAX_BYTES then return nil end
    until #page < PAGE
  end
  for _, id in ipairs(redis.call('HKEYS', KEYS[6])) do
    local body = redis.call('HGET', KEYS[6], id)
    local head = #(string.match(body, '^%d+ %d+ %d+ %d+ ') or '')
    bytes = bytes + #body - head
    apart = apart + body_size(string.sub(body, head + 1))
    if bytes > RECOUNT_MAX_BYTES then return nil end
  end
  return bytes + apart
end

local depth = redis.call('ZCARD', KEYS[5])
for i = 1, 3 do depth = depth + redis.call('XLEN', KEYS[i]) end
if depth <= tonumber(ARGV[3]) then
  local bytes = recount()
  if bytes then
    drift = bytes - tonumber(redis.call('HGET', KEYS[4], 'bytes') or 0)
    if drift ~= 0 then redis.call('HINCRBY', KEYS[4], 'bytes', drift) end
  end
end
return { returned, deleted, drift }
