-- Ends one job as cancelled, wherever it waits; a claimed one too (its late outcome then changes nothing).
-- KEYS: 1-4 as in finish.lua  5-7 lanes  8 delayed  9 delayed bodies
-- ARGV: 1-4 as in finish.lua  5 id  6 lane ('' unknown)  7 entry ('' unknown)
-- Returns 1 when cancelled, 0 when the job is unknown or already ended.
local id, lane, entry = ARGV[5], ARGV[6], ARGV[7]
local CANCELLED = 5
local body = redis.call('HGET', KEYS[9], id)
local blob = nil
if body then
  redis.call('ZREM', KEYS[8], id)
  redis.call('HDEL', KEYS[9], id)
  blob = string.sub(body, #(string.match(body, '^%d+ %d+ %d+ %d+ ') or '') + 1)
else
  local place = redis.call('HGET', moved, id)
  if place then lane, entry = string.match(place, '^(%d) (.*)$') end
  if entry ~= '' then
    local key = KEYS[4 + tonumber(lane)]
    local found = redis.call('XRANGE', key, entry, entry)[1]
    if found and read_job(found[2][2]) == id then
      redis.call('XACK', key, GROUP, entry)
      redis.call('XDEL', key, entry)
      blob = found[2][2]
    end
  end
end
if not blob then return 0 end
local _, ttl_s = read_job(blob)
finish(id, 'cancelled', ttl_s, bytes_freed(blob), failure(id, CANCELLED, 1, 0, 'cancelled', 'the job was cancelled'))
flush()
return 1
