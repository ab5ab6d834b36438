-- Remembers what forwards took. Begins with PEXPIRE, which frees: passes at maxmemory.
-- KEYS: 1 times of one manifest on one device
-- ARGV: 1 ttl_ms  then per size: field (rows|dims), value (median_ms p99_ms)
-- Returns how many sizes are known.
redis.call('PEXPIRE', KEYS[1], ARGV[1])
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HLEN', KEYS[1])
