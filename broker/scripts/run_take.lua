-- Takes the lease of a run for one worker; who holds it is alone with the run. Begins with PERSIST: passes at maxmemory.
-- KEYS: 1 run  2 lease  3 errors
-- ARGV: 1 owner  2 lease_ms  3 tidy: take one that was cancelled too, to throw away what it left
-- Returns {taken, how often it was taken} or {held, owner} or {idle, state}.
local state = redis.call('HGET', KEYS[1], 'state')
local is_left = ARGV[3] == '1' and state == 'cancelled' and redis.call('HGET', KEYS[1], 'asked') == 'discard'
if state ~= 'queued' and state ~= 'running' and not is_left then return { 'idle', state or '' } end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return { 'held', owner } end
if is_left then redis.call('PEXPIRE', KEYS[2], ARGV[2]) else redis.call('PERSIST', KEYS[1]) end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
local takes = redis.call('HINCRBY', KEYS[1], 'takes', 1)
if not is_left then
  local time = redis.call('TIME')
  local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSETNX', KEYS[1], 'started_ms', now_ms)
  redis.call('HSET', KEYS[1], 'state', 'running', 'owner', ARGV[1], 'progressed_ms', now_ms)
  redis.call('PERSIST', KEYS[3])
end
return { 'taken', tostring(takes) }
