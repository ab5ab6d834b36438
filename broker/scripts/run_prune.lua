-- Takes ids of runs that are past their time out of the list.
-- KEYS: 1 runs
-- ARGV: 1 prefix of a run's key
-- Returns how many went.
local gone = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.call('EXISTS', ARGV[1] .. id) == 0 then gone = gone + redis.call('ZREM', KEYS[1], id) end
end
return gone
