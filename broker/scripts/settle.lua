-- Ends jobs that are done. XACK comes first, and only for jobs it ended a result is written: the first finisher wins.
-- KEYS: 1-4 as in finish.lua  5-7 lanes
-- ARGV: 1-4 as in finish.lua  5-7 how many jobs of each lane, in that order
--       8 of how many jobs the body stands apart, then per such job: its entry's place in ARGV, token, name
--       then: the jobs' bytes in all, each job's as '<d'; ttl_s of all (0: not stored) or '', else each job's
--       as '<d' (-1 - ttl_s: an outcome above inline_limit), the entries of all jobs, lane after lane, their outcomes in the same order:
--       framed, or without a frame above inline_limit
-- Returns how many were ours to end; the others were ended by someone else before and nothing changed.
-- Begins with XACK, which frees: passes at maxmemory.
local AT_ONCE = 1000 -- arguments per command, within what Lua's stack takes
local BUNCH_FROM = 4 -- so many results are stored together, see keys.results; fewer cost less in a key each
local BUNCH_OVERHEAD = 250 -- what a bunch costs beside its bytes, as measured on 6.2
local bodies_end = 8 + 3 * tonumber(ARGV[8])
local sizes, ttl_of_all, ttls = ARGV[bodies_end + 2], tonumber(ARGV[bodies_end + 3]), ARGV[bodies_end + 4]
local first_entry = bodies_end + 5
local first, total, skip = first_entry, 0, nil
for lane = 1, 3 do
  local count = tonumber(ARGV[4 + lane])
  if count > 0 then
    local key, last = KEYS[4 + lane], first + count - 1
    local acked = 0
    for at = first, last, AT_ONCE do
      acked = acked + redis.call('XACK', key, GROUP, unpack(ARGV, at, math.min(at + AT_ONCE - 1, last)))
    end
    if acked == count then
      for at = first, last, AT_ONCE do redis.call('XDEL', key, unpack(ARGV, at, math.min(at + AT_ONCE - 1, last))) end
    else
      -- Whoever ends a job deletes its entry in the same script: what is still there was ours to end.
      skip = skip or {}
      for at = first, last do
        if redis.call('XDEL', key, ARGV[at]) == 0 then skip[at] = true end
      end
    end
    first = last + 1
    total = total + count
  end
end

-- Below 0: the outcome goes unframed.
local function ttl_of(entry)
  return ttl_of_all or struct.unpack('<d', ttls, 8 * (entry - first_entry) + 1)
end

local function id_of(framed)
  return string.sub(framed, 29, 28 + string.byte(framed, 8))
end

-- Jobs that other clients wait for too, and those that were delayed once: asked for together, for the hour that one retry is remembered.
local watched = {}
if redis.call('EXISTS', watchers, moved) > 0 then
  local ids, entries = {}, {}
  for entry = first_entry, first - 1 do
    if not (skip and skip[entry]) and ttl_of(entry) >= 0 then
      ids[#ids + 1], entries[#entries + 1] = id_of(ARGV[entry + total]), entry
    end
    if #ids == AT_ONCE or (entry == first - 1 and #ids > 0) then
      for i, names in ipairs(redis.call('HMGET', watchers, unpack(ids))) do watched[entries[i]] = names end
      redis.call('HDEL', moved, unpack(ids))
      ids, entries = {}, {}
    end
  end
end

-- Everything a job costs here is paid tens of thousands of times a second, so the common case stays off the function calls.
local bunches, by_ttl, bunch, of, ttl = {}, {}, nil, nil, nil

-- The bunch of one block of ids and time to live.
local function bunch_of(block, ttl_s)
  local blocks = by_ttl[ttl_s]
  if not blocks then
    blocks = {}
    by_ttl[ttl_s] = blocks
  end
  local found = blocks[block]
  if not found then
    found = { block = block, ttl_s = ttl_s }
    blocks[block] = found
    bunches[#bunches + 1] = found
  end
  return found
end

-- Stores and replies a framed outcome on its own.
local function alone(framed, ttl_s)
  local id = id_of(framed)
  if ttl_s > 0 then
    redis.call('SET', prefix .. 'result:' .. id, string.sub(framed, 5), 'EX', ttl_s)
    due[ttl_s] = (due[ttl_s] or 0) + #framed + RESULT_OVERHEAD
  end
  local client = string.match(id, '^([^-]+)-')
  if client then
    local parts = reply_parts(client)
    parts[#parts + 1] = framed
  end
end

local count = 0
for entry = first_entry, first - 1 do
  if not (skip and skip[entry]) then
    count = count + 1
    local outcome = ARGV[entry + total]
    local ttl_s = ttl_of_all or ttl_of(entry)
    if ttl_s < 0 then
      finish(string.sub(outcome, 25, 24 + string.byte(outcome, 4)), 'done', -1 - ttl_s, 0, outcome)
    elseif watched[entry] then
      finish(id_of(outcome), 'done', ttl_s, 0, string.sub(outcome, 5))
    elseif total < BUNCH_FROM then
      alone(outcome, ttl_s)
    else
      local block = string.sub(outcome, 29, 26 + string.byte(outcome, 8))
      if block ~= of or ttl_s ~= ttl then
        bunch, of, ttl = bunch_of(block, ttl_s), block, ttl_s
      end
      bunch[#bunch + 1] = outcome
    end
    if skip then freed_bytes = freed_bytes + struct.unpack('<d', sizes, 8 * (entry - first_entry) + 1) end
  end
end
if not skip then freed_bytes = tonumber(ARGV[bodies_end + 1]) end

-- Stores a bunch; whether it could: a user of rights as a version before had them may not, and then each result stands alone.
local function store(one, frames)
  local key, ttl_ms = prefix .. 'results:' .. one.block, one.ttl_s * 1000
  local left_ms = redis.pcall('PTTL', key) -- asked first: behind a write nothing may be refused any more
  if type(left_ms) ~= 'number' then return false end
  if type(redis.pcall('RPUSH', key, string.format('%.0f', now_ms + ttl_ms), frames)) ~= 'number' then return false end
  if left_ms < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end
  due[one.ttl_s] = (due[one.ttl_s] or 0) + #frames + BUNCH_OVERHEAD
  return true
end

for _, one in ipairs(bunches) do
  local client = string.match(one.block, '^([^-]+)-')
  local frames = client and #one >= BUNCH_FROM and table.concat(one)
  if frames and (one.ttl_s == 0 or store(one, frames)) then
    local parts = reply_parts(client)
    parts[#parts + 1] = frames
  else
    for i = 1, #one do alone(one[i], one.ttl_s) end
  end
end
for place = 9, bodies_end, 3 do
  if not (skip and skip[tonumber(ARGV[place])]) then free_body(prefix, ARGV[place + 1], ARGV[place + 2], now_ms) end
end
if count > 0 then ended.done = count end
flush()
if count > 0 then note_rate(counters, now_ms) end
return count
