-- Remembers learned row caps. Begins with HDEL, which frees: passes at maxmemory.
-- KEYS: 1 caps
-- ARGV: 1 forget_ms  then per cap: field (device|dims), rows (0: none any more), Redis ms when it was learned
-- Drops what is older than forget_ms, so that hosts and shapes that are gone leave nothing behind. Returns how many are kept.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 3 do
  redis.call('HDEL', KEYS[1], ARGV[i])
  if tonumber(ARGV[i + 1]) > 0 then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2]) end
end
local known = redis.call('HGETALL', KEYS[1])
for i = 1, #known, 2 do
  local at_ms = tonumber(string.match(known[i + 1], '^%d+ (%d+)$') or 0)
  if now_ms - at_ms > tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], known[i]) end
end
return redis.call('HLEN', KEYS[1])
