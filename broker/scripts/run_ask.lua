-- What a user asks of a run: at once where nobody works it, else left for who does.
-- KEYS: 1 run
-- ARGV: 1 what (pause, resume, cancel, retry)  2 lease key  3 keep_ms of a run that ends here
-- Returns {did | asked | unknown | ended | unfinished | spotless, state}.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return { 'unknown', '' } end
local what, is_held = ARGV[1], redis.call('EXISTS', ARGV[2]) == 1
local is_open = state == 'queued' or state == 'running' or state == 'paused'

local function queue()
  redis.call('HSET', KEYS[1], 'state', 'queued')
  redis.call('HDEL', KEYS[1], 'asked', 'error', 'ended_ms', 'doing')
  redis.call('PERSIST', KEYS[1])
  return { 'did', 'queued' }
end

if what == 'retry' then
  if state == 'done' then return { 'spotless', state } end
  if state ~= 'done_with_errors' then return { 'unfinished', state } end
  local time = redis.call('TIME')
  local takes = redis.call('HGET', KEYS[1], 'takes') -- two may fall into one millisecond
  redis.call('HSET', KEYS[1], 'is_retry', '1', 'round', time[1] .. '.' .. time[2] .. '.' .. takes)
  return queue()
end
if what == 'resume' then
  if state == 'paused' or state == 'failed' then return queue() end
  if not is_open then return { 'ended', state } end
  if redis.call('HGET', KEYS[1], 'asked') == 'pause' then redis.call('HDEL', KEYS[1], 'asked') end
  return { 'did', state }
end
if not is_open then return { 'ended', state } end
if is_held then
  redis.call('HSET', KEYS[1], 'asked', what)
  return { 'asked', state }
end
if what == 'pause' then
  redis.call('HSET', KEYS[1], 'state', 'paused')
  redis.call('HDEL', KEYS[1], 'asked')
  return { 'did', 'paused' }
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'asked', 'discard',
  'ended_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return { 'did', 'cancelled' }
