-- Queues a chunk of jobs of one model and lane: all, or the prefix that fits.
-- KEYS: 1 spec  2 requests of this client  3 counters  4 stored  5 delayed  6 delayed bodies  7-9 lanes high, normal, low
--       10 bodies:TOKEN, only where a job's body stands apart (body.lua)
-- ARGV: 1 request number  2 spec generation the client validated against (-1: any)  3 lane (1-3)  4 delay_ms
--       5 deadline_ms after now (0 none)  6 window  7 requests_ttl_ms  8 dedupe prefix  9 dedupe_ttl_ms
--       10 dedupe count (0, or the number of jobs)
--       11.. job blobs, then, if 10 > 0, per job: idempotency key ('' none), content digest
-- Returns a msgpack array {code, first entry id, accepted, retry_after_ms, detail, duplicates {index, id, ...}};
--   code: ok | full | conflict | stale | unknown_model | new_spec | too_large | no_body | garbled
-- The answer is kept under the request number, refusals too, so that a client who lost it may ask again.
local number, lane = tonumber(ARGV[1]), tonumber(ARGV[3])
local field = number % tonumber(ARGV[6])
local kept = redis.call('HGET', KEYS[2], field)
if kept then
  local kept_number, answer = string.match(kept, '^(%d+) (.*)$')
  kept_number = tonumber(kept_number)
  if kept_number == number then return answer end
  if kept_number > number then return cmsgpack.pack({ 'stale', '', 0, 0, tostring(kept_number), {} }) end
end

local function answer(code, first, accepted, retry_ms, detail, duplicates)
  local packed = cmsgpack.pack({ code, first, accepted, retry_ms, detail, duplicates or {} })
  redis.call('HSET', KEYS[2], field, ARGV[1] .. ' ' .. packed)
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
  return packed
end

local with_keys = tonumber(ARGV[10])
local first_arg = 11
local count = #ARGV - first_arg + 1 - 2 * with_keys
local bodies, model = KEYS[10], KEYS[10] and string.match(KEYS[10], '^(.*:)bodies:')
local spare = {} -- bodies in Redis of jobs that were queued before, under another id

-- Removes what was written for jobs that are not taken in, from the one behind `accepted` on. Behind all writes that need
-- memory: PEXPIRE as the first one would let them pass at maxmemory.
local function discard(accepted)
  if not bodies then return end
  for i = accepted + 1, count do
    local token, name = reference(ARGV[first_arg + i - 1])
    if token == 'redis' then spare[#spare + 1] = name end
  end
  for _, name in ipairs(spare) do
    if not redis.call('ZSCORE', model .. 'bodies:redis', name) then redis.call('PEXPIRE', model .. 'body:' .. name, 0) end
  end
end

local spec = redis.call('HMGET', KEYS[1], 'generation', 'max_jobs', 'max_bytes', 'payload_limit_bytes')
if not spec[1] or (ARGV[2] ~= '-1' and ARGV[2] ~= spec[1]) then discard(0) end
if not spec[1] then return cmsgpack.pack({ 'unknown_model', '', 0, 0, '', {} }) end
if ARGV[2] ~= '-1' and ARGV[2] ~= spec[1] then return cmsgpack.pack({ 'new_spec', '', 0, 0, spec[1], {} }) end
local max_jobs, max_bytes, payload_limit = tonumber(spec[2]), tonumber(spec[3]), tonumber(spec[4])

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

-- Stored results vanish by TTL without telling anyone: drop the buckets that are past, at most once in 10 s.
local usage = redis.call('HMGET', KEYS[3], 'bytes', 'stored_bytes', 'swept_bucket', 'rate')
local queued_bytes, stored_bytes = tonumber(usage[1] or 0), tonumber(usage[2] or 0)
local bucket = math.floor(time[1] / 10)
if stored_bytes > 0 and bucket > tonumber(usage[3] or 0) then
  local past, bytes = {}, 0
  local all = redis.call('HGETALL', KEYS[4])
  for i = 1, #all, 2 do
    if tonumber(all[i]) <= bucket then
      past[#past + 1] = all[i]
      bytes = bytes + tonumber(all[i + 1])
    end
  end
  -- HSET first: HDEL as the first write would let the rest of this script pass at maxmemory.
  redis.call('HSET', KEYS[3], 'swept_bucket', bucket)
  for i = 1, #past do redis.call('HDEL', KEYS[4], past[i]) end
  if bytes > 0 then stored_bytes = redis.call('HINCRBY', KEYS[3], 'stored_bytes', -bytes) end
end

local depth = redis.call('XLEN', KEYS[7]) + redis.call('XLEN', KEYS[8]) + redis.call('XLEN', KEYS[9])
  + redis.call('ZCARD', KEYS[5])
local delay_ms, deadline_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local deadline = deadline_ms > 0 and now_ms + deadline_ms or 0
local stream = KEYS[6 + lane]
local meta = deadline > 0 and string.format('%.0f %d %.0f', deadline, 1, now_ms + delay_ms) or nil

local first, entry_ms, entry_seq = '', nil, nil
local accepted, added, added_bytes = 0, 0, 0
local code, detail, duplicates = 'ok', '', {}
for i = 1, count do
  local blob = ARGV[first_arg + i - 1]
  local size = #blob
  local token, name, apart
  if bodies then
    token, name, apart = reference(blob)
    size = size + (apart or 0)
  end
  -- Format 2 and nothing it refers to in the chunk's own store: no producer of ours.
  if string.byte(blob, 1) == 2 and (not token or KEYS[10] ~= model .. 'bodies:' .. token) then
    code, detail = 'garbled', tostring(i - 1)
    break
  end
  local dedupe_key, digest, is_duplicate = nil, nil, false
  if with_keys > 0 then
    local key = ARGV[first_arg + count + 2 * i - 2]
    if key ~= '' then
      dedupe_key, digest = ARGV[8] .. key, ARGV[first_arg + count + 2 * i - 1]
      local seen = redis.call('GET', dedupe_key)
      if seen then
        local seen_digest, seen_id = string.match(seen, '^(%S+) (.*)$')
        if seen_digest ~= digest then
          code, detail = 'conflict', key
          break
        end
        is_duplicate = true
        duplicates[#duplicates + 1] = i - 1
        duplicates[#duplicates + 1] = seen_id
        -- The job that was queued under the same key may be this very one: its body is its own.
        if token == 'redis' and seen_id ~= name then spare[#spare + 1] = name end
      end
    end
  end
  if not is_duplicate then
    if size > payload_limit or size > max_bytes then
      code, detail = 'too_large', tostring(size)
      break
    end
    if token == 'redis' and redis.call('STRLEN', model .. 'body:' .. name) ~= apart then
      code, detail = 'no_body', name
      break
    end
    if depth + added >= max_jobs or queued_bytes + stored_bytes + added_bytes + size > max_bytes then
      code = 'full'
      detail = depth + added >= max_jobs and 'jobs' or 'bytes'
      break
    end
    local id = (dedupe_key or delay_ms > 0) and string.sub(blob, 17, 16 + string.byte(blob, 3))
    if dedupe_key then redis.call('SET', dedupe_key, digest .. ' ' .. id, 'PX', ARGV[9]) end
    if delay_ms > 0 then
      redis.call('ZADD', KEYS[5], now_ms + delay_ms, id)
      redis.call('HSET', KEYS[6], id, string.format('%d %.0f 1 %.0f ', lane, deadline, now_ms + delay_ms) .. blob)
    elseif not entry_ms then
      -- The first id is the server's; the next ones follow it, so the answer names them all in one.
      if meta then first = redis.call('XADD', stream, '*', 'b', blob, 'm', meta)
      else first = redis.call('XADD', stream, '*', 'b', blob) end
      entry_ms, entry_seq = string.match(first, '^(%d+)-(%d+)$')
      entry_ms = entry_ms .. '-'
      entry_seq = tonumber(entry_seq)
    else
      entry_seq = entry_seq + 1
      local entry = entry_ms .. entry_seq
      if meta then redis.call('XADD', stream, entry, 'b', blob, 'm', meta)
      else redis.call('XADD', stream, entry, 'b', blob) end
    end
    if token then -- behind the job: PERSIST as the first write would let the rest pass at maxmemory
      if token == 'redis' then redis.call('PERSIST', model .. 'body:' .. name) end
      redis.call('ZADD', model .. 'bodies:' .. token, string.format('%.0f', now_ms), name)
    end
    added = added + 1
    added_bytes = added_bytes + size
  end
  accepted = i
end
if added > 0 then
  redis.call('HINCRBY', KEYS[3], 'bytes', added_bytes)
  redis.call('HINCRBY', KEYS[3], 'submitted', added)
end
local retry_ms = 0
if code == 'full' then
  -- Half the backlog at the measured drain rate, between 50 ms and 30 s; 1 s when nothing drains yet. What is paused does not
  -- drain: 5 s when that is all there is. pcall: a user without the right to look counts nothing as paused.
  local rate, moving, is_paused = tonumber(usage[4] or 0), depth, false
  local paused = redis.pcall('HGETALL', (string.gsub(KEYS[1], 'spec$', 'paused')))
  for i = 1, #paused, 2 do
    is_paused = true
    for of = 7, 9 do
      if string.match(KEYS[of], '[^:]+$') == paused[i] then moving = moving - redis.call('XLEN', KEYS[of]) end
    end
  end
  if is_paused and moving <= 0 then retry_ms, detail = 5000, detail .. ' paused'
  else retry_ms = rate > 0 and math.max(50, math.min(30000, math.floor(500 * moving / rate))) or 1000 end
end
local packed = answer(code, first, accepted, retry_ms, detail, duplicates)
discard(accepted)
return packed
