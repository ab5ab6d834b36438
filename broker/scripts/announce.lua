-- A slot's state, as status, CLI and metrics read it. Begins with PEXPIRE: no liveness write may fail on memory.
-- KEYS: 1 slot  2 slots
-- ARGV: 1 name  2 ttl_ms  3 forget after_ms  then field, value, ...; the field beat_ms is added: when this was, by Redis' time
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[3]), ARGV[1])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'beat_ms', string.format('%.0f', now_ms))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return string.format('%.0f', now_ms)
