-- The sign of life of one program that works runs. Begins with PEXPIRE: no liveness write may fail on memory.
-- KEYS: 1 programs of its host  2 hosts
-- ARGV: 1 ttl_ms  2 host  3 program  4 what it says of itself
-- Returns Redis' time in ms.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms)
redis.call('HSET', KEYS[1], ARGV[3], string.format('%.0f', now_ms) .. ' ' .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[1]), ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return string.format('%.0f', now_ms)
