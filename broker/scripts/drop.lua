-- Drops dead letters for good.
-- KEYS: 1 dead  2 counters
-- ARGV: entries
-- Returns how many were there. Begins with XDEL, which frees: passes at maxmemory.
local count = redis.call('XDEL', KEYS[1], unpack(ARGV))
if count > 0 then redis.call('HINCRBY', KEYS[2], 'discarded', count) end
return count
