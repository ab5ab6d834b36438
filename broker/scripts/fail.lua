-- Ends or postpones jobs that failed. Fenced: only the owner of the lease, at the delivery it was given, may fail a job.
-- KEYS: 1-4 as in finish.lua  5-7 lanes  8 delayed  9 delayed bodies  10 dead  11 bodies of dead letters
-- ARGV: 1-4 as in finish.lua  5 consumer  6 dead_max_count
--       then per job: lane, entry, deliveries, id, ttl_s, fate (retry | failed | dead | expired), delay_ms, reason, outcome
-- Returns how many were applied. Begins with XACK: passes at maxmemory.
local consumer, applied = ARGV[5], 0
local DEAD_AGE_MS = 30 * 24 * 3600 * 1000
local DEAD_BYTES = 256 * 1024 * 1024

-- Bodies of letters that were pushed out: of all that are older than the oldest there is. Call it behind an XADD.
local function forget_dropped()
  if redis.call('EXISTS', KEYS[11]) == 0 then return end
  local oldest = '(' .. string.match(redis.call('XRANGE', KEYS[10], '-', '+', 'COUNT', 1)[1][1], '^%d+')
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[11], '-inf', oldest)) do
    redis.call('ZREM', KEYS[11], member)
    local token, name = string.match(member, '^%S+ (%S+) (%S+)$')
    if token and is_reference(token, name) then free_body(prefix, token, name, now_ms) end
  end
end

for i = 7, #ARGV, 9 do
  local lane_number, entry, fate = ARGV[i], ARGV[i + 1], ARGV[i + 5]
  local lane = KEYS[4 + tonumber(lane_number)]
  local lease = redis.call('XPENDING', lane, GROUP, entry, entry, 1)[1]
  if lease and lease[2] == consumer and lease[4] == tonumber(ARGV[i + 2]) then
    local found = redis.call('XRANGE', lane, entry, entry)[1]
    redis.call('XACK', lane, GROUP, entry)
    redis.call('XDEL', lane, entry)
    if found then
      local blob = found[2][2]
      local deadline, attempt, submitted = read_meta(entry, found[2][4])
      local id = ARGV[i + 3]
      if fate == 'retry' then
        redis.call('HSET', KEYS[9], id,
          string.format('%s %.0f %d %.0f ', lane_number, deadline, attempt + 1, submitted) .. blob)
        redis.call('ZADD', KEYS[8], now_ms + tonumber(ARGV[i + 6]), id)
        redis.call('HINCRBY', counters, 'retried', 1)
      else
        local token, name, apart = reference(blob)
        local size = #blob + (apart or 0)
        if fate == 'dead' then
          -- Bounded by count (MAXLEN), roughly by bytes (a large job makes room for itself first), and by age (MINID).
          local most = math.max(16, math.min(tonumber(ARGV[6]), math.floor(DEAD_BYTES / (size + #ARGV[i + 8] + 200))))
          local over = redis.call('XLEN', KEYS[10]) + 1 - most
          if over > 0 then redis.call('XTRIM', KEYS[10], 'MAXLEN', most - 1) end
          local old = redis.call('XTRIM', KEYS[10], 'MINID', string.format('%.0f', now_ms - DEAD_AGE_MS))
          local dropped = math.max(0, over) + old
          if dropped > 0 then redis.call('HINCRBY', counters, 'dead_dropped', dropped) end
          local letter = redis.call('XADD', KEYS[10], '*', 'id', id, 'reason', ARGV[i + 7],
            'attempts', attempt, 'deliveries', lease[4], 'submitted_ms', string.format('%.0f', submitted),
            'lane', lane_number, 'job', blob, 'outcome', ARGV[i + 8])
          if token then redis.call('ZADD', KEYS[11], string.match(letter, '^%d+'), letter .. ' ' .. token .. ' ' .. name) end
          if dropped > 0 then forget_dropped() end
        elseif token then
          free_body(prefix, token, name, now_ms)
        end
        finish(id, fate, tonumber(ARGV[i + 4]), size, ARGV[i + 8])
      end
      applied = applied + 1
    end
  end
end
flush()
return applied
