-- What the worker of a run notes, renewing its lease. Nothing is written for one that has lost it. Begins with PEXPIRE.
-- KEYS: 1 run  2 lease  3 errors
-- ARGV: 1 owner  2 lease_ms  3 state to leave it in ('' goes on)  4 keep_ms of a run that ended  5 most errors kept
--       6 first: errors kept from before go ('1')  7 moved: rows were done since the last note ('1')  8 count of fields
--       then field, value, ...  then row, keys, why, ... of rows that failed, in row order
-- Returns {1, what the user asked for, state} or {0} when the lease is another's. A value of '' takes the field away.
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return { 0 } end
if not owner then -- it lapsed while Redis was away: ours still, if nobody has had the run since
  local kept = redis.call('HMGET', KEYS[1], 'owner', 'state')
  if kept[1] ~= ARGV[1] or kept[2] ~= 'running' then return { 0 } end
end
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('PEXPIRE', KEYS[2], ARGV[2])
if not owner then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
if ARGV[6] == '1' then redis.call('DEL', KEYS[3]) end
local fields_end = 8 + 2 * tonumber(ARGV[8])
for i = 9, fields_end, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[1], ARGV[i])
  else redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
if ARGV[7] == '1' then redis.call('HSET', KEYS[1], 'progressed_ms', now_ms) end
local kept = #ARGV > fields_end and redis.call('XLEN', KEYS[3]) or 0
for i = fields_end + 1, #ARGV, 3 do
  if kept >= tonumber(ARGV[5]) then break end -- the first ones tell most
  -- The id is the row: said again after a crash, it is there already and Redis refuses it.
  local added = redis.pcall('XADD', KEYS[3], (tonumber(ARGV[i]) + 1) .. '-0', 'keys', ARGV[i + 1], 'why', ARGV[i + 2])
  if type(added) == 'string' then kept = kept + 1 end
end
local asked = redis.call('HGET', KEYS[1], 'asked') or ''
local state = ARGV[3]
if state == '' then return { 1, asked, 'running' } end
redis.call('DEL', KEYS[2])
if state == 'queued' and asked == 'pause' then state = 'paused' end
if state == 'queued' and asked == 'cancel' then
  redis.call('HSET', KEYS[1], 'state', 'cancelled', 'asked', 'discard', 'ended_ms', now_ms)
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
  return { 1, asked, 'cancelled' }
end
redis.call('HSET', KEYS[1], 'state', state)
redis.call('HDEL', KEYS[1], 'asked', 'eta_s', 'doing', 'owner')
if state ~= 'queued' and state ~= 'paused' then
  redis.call('HSET', KEYS[1], 'ended_ms', now_ms)
  redis.call('HDEL', KEYS[1], 'is_fresh')
  if state ~= 'failed' then redis.call('HDEL', KEYS[1], 'is_retry') end -- a retry that failed goes on as one
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return { 1, asked, state }
