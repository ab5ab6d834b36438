-- Shared by the scripts that end jobs (prepended to settle, fail, claim, cancel). Not a script of its own.
-- It writes the outcome, accounts for it, and collects replies; the caller has freed the entry first, so that a
-- server at maxmemory lets the script pass.
local prefix, reply_ttl_ms, reply_cap, inline_limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local counters, stored, watchers, moved = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local GROUP, RETURNED = 'slots', 'returned'
local BUCKET_S = 10        -- width of one expiry bucket in `stored`
local REPLY_BYTES = 64 * 1024 * 1024 -- about what one client's reply list may hold
local RESULT_OVERHEAD = 250 -- what a stored result costs beside its bytes, as measured on 6.2

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local replies, reply_order, due = {}, {}, {}
local is_watched, is_moved = nil, nil
local freed_bytes = 0
local ended = {}

-- What goes to one client: framed outcomes, length first.
local function reply_parts(client)
  local parts = replies[client]
  if not parts then
    parts = {}
    replies[client] = parts
    reply_order[#reply_order + 1] = client
  end
  return parts
end

local function reply(client, blob)
  local parts = reply_parts(client)
  parts[#parts + 1] = struct.pack('<I4', #blob)
  parts[#parts + 1] = blob
end

local function finish(id, state, ttl_s, size, blob)
  if is_watched == nil then
    is_watched = redis.call('EXISTS', watchers) == 1
    is_moved = redis.call('EXISTS', moved) == 1
  end
  freed_bytes = freed_bytes + size
  ended[state] = (ended[state] or 0) + 1
  local short = blob
  if #blob > inline_limit then
    -- Too large for the reply list: the id alone, marked "elsewhere" (bit 6 of the status byte); the body stays in
    -- the result, for a minute at least.
    local id_len = string.byte(blob, 4)
    short = string.sub(blob, 1, 1) .. string.char(string.byte(blob, 2) % 64 + 64) .. string.sub(blob, 3, 20)
      .. '\0\0\0\0' .. string.sub(blob, 25, 24 + id_len)
    if ttl_s == 0 then ttl_s = 60 end
  end
  if ttl_s > 0 then
    redis.call('SET', prefix .. 'result:' .. id, blob, 'EX', ttl_s)
    due[ttl_s] = (due[ttl_s] or 0) + #blob + RESULT_OVERHEAD
  end
  local client = string.match(id, '^[^-]+')
  if client then reply(client, short) end -- none in a garbled id: nobody waits, and the batch must not fail for it
  if is_watched then
    local names = redis.call('HGET', watchers, id)
    if names then
      for client in string.gmatch(names, '%S+') do reply(client, short) end
      redis.call('HDEL', watchers, id)
    end
  end
  if is_moved then redis.call('HDEL', moved, id) end
end

-- What a job takes up that ends here for good: its bytes and its body's, which nobody needs any more.
local function bytes_freed(blob)
  local token, name, size = reference(blob)
  if not token then return #blob end
  free_body(prefix, token, name, now_ms)
  return #blob + size
end

local function flush()
  for _, client in ipairs(reply_order) do
    local key = prefix .. 'reply:' .. client
    local element = table.concat(replies[client])
    -- A client that never reads must not fill Redis: the list is a hint, so its oldest elements go first.
    local cap = math.min(reply_cap, math.max(16, math.floor(REPLY_BYTES / #element)))
    if redis.call('RPUSH', key, element) > cap then redis.call('LTRIM', key, -cap, -1) end
    redis.call('PEXPIRE', key, reply_ttl_ms)
  end
  for ttl_s, bytes in pairs(due) do
    local bucket = math.floor((time[1] + ttl_s) / BUCKET_S) + 1
    redis.call('HINCRBY', stored, bucket, bytes)
    redis.call('HINCRBY', counters, 'stored_bytes', bytes)
  end
  if freed_bytes ~= 0 then redis.call('HINCRBY', counters, 'bytes', -freed_bytes) end
  for state, count in pairs(ended) do redis.call('HINCRBY', counters, state, count) end
end

-- A failed outcome made here (expired, cancelled): head, id, note {"reason": reason, "error": text}.
local function failure(id, status, attempt, total_ms, reason, text)
  local note = cmsgpack.pack({ reason = reason, error = text })
  return struct.pack('<BBBBffffHH', 1, status, attempt, #id, total_ms, 0, 0, total_ms, 0, #note) .. id .. note
end

-- What submit and the mover put beside a job: deadline (Redis ms, 0 none), attempt, first submit (Redis ms).
local function read_meta(entry_id, meta)
  if meta and #meta < 64 then -- what is not of that form counts as if there were none: a script must not fail for it
    local deadline, attempt, submitted = string.match(meta, '^(%d+) (%d+) (%d+)$')
    if deadline then return tonumber(deadline), math.min(tonumber(attempt), 255), tonumber(submitted) end
  end
  return 0, 1, tonumber(string.match(entry_id, '^%d+'))
end

-- id, result_ttl_s (0 when the result is not stored) of a job blob; see broker/codec.py for the layout.
local function read_job(blob)
  if #blob < 16 then return 'unreadable-0', 0 end -- shorter than its head; broker/claimed.py names it so too
  local bits, id_len = string.byte(blob, 2), string.byte(blob, 3)
  local ttl_s = struct.unpack('<I4', blob, 9)
  if math.floor(bits / 8) % 2 == 0 then ttl_s = 0 end
  return string.sub(blob, 17, 16 + id_len), ttl_s
end
