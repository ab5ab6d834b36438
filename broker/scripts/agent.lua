-- The agent's sign of life on its host. Begins with PEXPIRE: no liveness write may fail on memory.
-- KEYS: 1 agent
-- ARGV: 1 ttl_ms  then field, value, ...
-- Returns Redis' time in ms.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], 'beat_ms', string.format('%.0f', now_ms))
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return string.format('%.0f', now_ms)
