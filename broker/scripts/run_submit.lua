-- Takes in a bulk run, or attaches to the one of that id. Its first write needs memory: a full Redis refuses new runs.
-- KEYS: 1 run  2 runs
-- ARGV: 1 id  2 lease key  3 if_exists (resume, fail, overwrite)  4 request  5 version  6 fingerprint  7 output  8 run key without id
-- Returns {new | known | exists | busy, state before}, or {taken, state, id} of the run that is to write this output, or has
-- since this one, which wrote it or would replace it, ended.
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
-- What jobs are called after, so that those of a run that began anew are other ones. Two may fall into one millisecond.
local round = now_ms .. '.' .. (redis.call('HGET', KEYS[1], 'takes') or '0')
local state = redis.call('HGET', KEYS[1], 'state')
if state and ARGV[3] == 'fail' then return { 'exists', state } end
if state and ARGV[3] == 'overwrite' and redis.call('EXISTS', ARGV[2]) == 1 then return { 'busy', state } end
local goes_on = state and ARGV[3] == 'resume' and (state == 'failed' or state == 'cancelled')
local is_done = state and ARGV[3] == 'resume' and (state == 'done' or state == 'done_with_errors')
-- Two that are submitted at one moment have not seen each other: here the second does. And who attaches to a run that is done takes
-- what stands under its output's name for its rows.
local other = rival(KEYS[2], ARGV[8], ARGV[1], ARGV[7], (goes_on or is_done) and owns_since(KEYS[1]))
if other then return { 'taken', other[2], other[1] } end
if is_done then return { 'known', state } end
if state and ARGV[3] == 'resume' then
  redis.call('HSET', KEYS[1], 'request', ARGV[4]) -- its limits, rate and priority may be others now
  if goes_on then
    redis.call('HSET', KEYS[1], 'state', 'queued')
    if state == 'cancelled' then
      redis.call('HSET', KEYS[1], 'is_fresh', '1', 'round', round)
      redis.call('HDEL', KEYS[1], 'is_retry', 'is_assembled', 'plan') -- its parts are gone, and with them what was done
    end
    redis.call('HDEL', KEYS[1], 'asked', 'error', 'ended_ms', 'doing')
    redis.call('PERSIST', KEYS[1])
  end
  return { 'known', state }
end
redis.call('HSET', KEYS[1], 'state', 'queued', 'request', ARGV[4], 'version', ARGV[5], 'fingerprint', ARGV[6],
  'created_ms', now_ms, 'is_fresh', '1', 'round', round, 'output', ARGV[7])
if ARGV[3] == 'overwrite' then redis.call('HSET', KEYS[1], 'is_replacing', '1')
else redis.call('HDEL', KEYS[1], 'is_replacing') end
redis.call('HDEL', KEYS[1], 'asked', 'error', 'started_ms', 'ended_ms', 'progressed_ms', 'rows_total', 'rows_done',
  'rows_failed', 'rows_per_s', 'eta_s', 'doing', 'owner', 'is_retry', 'plan', 'is_assembled')
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[2], now_ms, ARGV[1])
return { 'new', state or '' }
