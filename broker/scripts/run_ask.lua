-- What a user asks of a run: at once where nobody works it, else left for who does.
-- KEYS: 1 run  2 runs
-- ARGV: 1 what (pause, resume, cancel, retry)  2 lease key  3 keep_ms of a run that ends here  4 id  5 run key without id
-- Returns {did | asked | unknown | ended | unfinished | spotless, state}, or {taken, state, id, output} of the run that is to write
-- the output of this one, which ended, or has since.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return { 'unknown', '' } end
local what, is_held = ARGV[1], redis.call('EXISTS', ARGV[2]) == 1
local is_open = state == 'queued' or state == 'running' or state == 'paused'

local function taken()
  local output = redis.call('HGET', KEYS[1], 'output')
  local other = output and rival(KEYS[2], ARGV[5], ARGV[4], output, owns_since(KEYS[1]))
  return other and { 'taken', other[2], other[1], output }
end
local function queue()
  redis.call('HSET', KEYS[1], 'state', 'queued')
  redis.call('HDEL', KEYS[1], 'asked', 'error', 'ended_ms', 'doing')
  redis.call('PERSIST', KEYS[1])
  return { 'did', 'queued' }
end

if what == 'retry' then
  if state == 'done' then return { 'spotless', state } end
  if state ~= 'done_with_errors' then return { 'unfinished', state } end
  local refusal = taken()
  if refusal then return refusal end
  local time = redis.call('TIME')
  local takes = redis.call('HGET', KEYS[1], 'takes') -- two may fall into one millisecond
  redis.call('HSET', KEYS[1], 'is_retry', '1', 'round', time[1] .. '.' .. time[2] .. '.' .. takes)
  return queue()
end
if what == 'resume' then
  if state == 'failed' then return taken() or queue() end
  if state == 'paused' then return queue() end
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
