-- Dates bodies that were noted and whose jobs are not queued yet: due in ORPHAN ms, unless that happens until then.
-- Frees bodies that no job names any more though nobody ended one: what a version before, or a deleted lane, left behind.
-- Jobs move between lanes, delayed and dead, so all of them are read at once; a queue too long for that is left for later.
-- KEYS: 1-3 lanes  4 delayed bodies  5 bodies of dead letters  6 bodies:redis  7 bodies:TOKEN of the slot's own store
-- ARGV: 1 prefix of the model's keys  2 how long a job must have been taken in, ms
-- Returns how many were freed, -1 when the queue is too long to be read. Begins with PERSIST, which changes nothing: passes
-- at maxmemory.
local MOST_ENTRIES, MOST_BYTES, AT_ONCE, PAGE = 2000, 4 * 1024 * 1024, 500, 8
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('PERSIST', KEYS[5])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[7], 0, 0, 'LIMIT', 0, AT_ONCE)) do
  redis.call('ZADD', KEYS[7], string.format('%.0f', -(now_ms + tonumber(ARGV[2]))), name)
end
local old = {}
for i = 6, 7 do
  if i == 6 or KEYS[7] ~= KEYS[6] then
    local token = string.match(KEYS[i], '[^:]+$')
    local before = string.format('%.0f', now_ms - tonumber(ARGV[2]))
    -- Any page of them, so that old names whose jobs live do not hide for ever those behind; the first where that page is empty.
    local from = AT_ONCE * (time[2] % math.max(1, math.ceil(redis.call('ZCARD', KEYS[i]) / AT_ONCE)))
    local page = redis.call('ZRANGEBYSCORE', KEYS[i], '(0', before, 'LIMIT', from, AT_ONCE)
    if #page == 0 and from > 0 then page = redis.call('ZRANGEBYSCORE', KEYS[i], '(0', before, 'LIMIT', 0, AT_ONCE) end
    for _, name in ipairs(page) do old[#old + 1] = { token, name } end
  end
end
if #old == 0 then return 0 end

local named, entries, bytes = {}, 0, 0
local function note(blob)
  local token, name = reference(blob)
  if token then named[token .. ' ' .. name] = true end
  entries = entries + 1
  bytes = bytes + #blob
end
for i = 1, 3 do
  local from, page = '-', nil
  repeat
    page = redis.call('XRANGE', KEYS[i], from, '+', 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      note(entry[2][2])
      from = '(' .. entry[1]
    end
    if entries > MOST_ENTRIES or bytes > MOST_BYTES then return -1 end
  until #page < PAGE
end
for _, id in ipairs(redis.call('HKEYS', KEYS[4])) do
  local kept = redis.call('HGET', KEYS[4], id)
  note(string.sub(kept, #(string.match(kept, '^%d+ %d+ %d+ %d+ ') or '') + 1))
  if entries > MOST_ENTRIES or bytes > MOST_BYTES then return -1 end
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
  named[string.match(member, '^%S+ (.*)$') or ''] = true
end

local freed = 0
for _, one in ipairs(old) do
  if not named[one[1] .. ' ' .. one[2]] then
    free_body(ARGV[1], one[1], one[2], now_ms)
    freed = freed + 1
  end
end
return freed
