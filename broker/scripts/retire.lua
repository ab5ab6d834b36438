-- Asks for a place among those retiring: granted only while enough slots of the model stay ready.
-- KEYS: 1 ready  2 retiring  3 failing  4 wanted
-- ARGV: 1 slot  2 place_ttl_ms
-- Returns 1 when granted. Ready minus retiring must stay at least three quarters of wanted (rounded down, at least one),
-- and no slot of the model may be failing to load. A model that has only one slot retires without asking.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, 3 do redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now_ms) end
local wanted = 0
for _, count in ipairs(redis.call('HVALS', KEYS[4])) do wanted = wanted + tonumber(count) end
if wanted > 1 then
  if redis.call('ZCARD', KEYS[3]) > 0 then return 0 end
  local stay = 0
  for _, slot in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if slot ~= ARGV[1] and not redis.call('ZSCORE', KEYS[2], slot) then stay = stay + 1 end
  end
  if stay < math.max(1, math.floor(wanted * 3 / 4)) then return 0 end
end
redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[2]), ARGV[1])
return 1
