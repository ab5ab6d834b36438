-- Moves delayed jobs that are due into their lanes.
-- KEYS: 1 delayed  2 delayed bodies  3 moved  4-6 lanes
-- ARGV: 1 at most how many  2 moved_ttl_ms
-- Returns how many were moved. Begins with ZREM, which frees: passes at maxmemory.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local body = redis.call('HGET', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  if body then
    local lane, meta, from = string.match(body, '^([123]) (%d+ %d+ %d+) ()')
    if lane then -- else it is nothing of ours: gone, and the next ones must not wait for it
      local entry = redis.call('XADD', KEYS[3 + tonumber(lane)], '*', 'b', string.sub(body, from), 'm', meta)
      redis.call('HSET', KEYS[3], id, lane .. ' ' .. entry)
      redis.call('PEXPIRE', KEYS[3], ARGV[2])
    end
  end
end
return #due
