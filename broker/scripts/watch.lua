-- Asks that a job's outcome be sent to this client too; answers at once when it is there already.
-- KEYS: 1 result  2 watchers
-- ARGV: 1 id  2 client  3 watch_ttl_ms  4 key of bunches of results
-- Returns the outcome, or false when the client was noted and must wait for its reply list.
local outcome = kept(KEYS[1], ARGV[4], ARGV[1])
if outcome then return outcome end
redis.call('PERSIST', KEYS[2]) -- first a write that no memory limit refuses: waiting must not fail on a full server
local names = redis.call('HGET', KEYS[2], ARGV[1])
if not names then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
elseif not string.find(' ' .. names .. ' ', ' ' .. ARGV[2] .. ' ', 1, true) then
  redis.call('HSET', KEYS[2], ARGV[1], names .. ' ' .. ARGV[2])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return false
