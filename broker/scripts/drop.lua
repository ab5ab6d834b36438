-- Drops dead letters for good.
-- KEYS: 1 dead  2 counters  3 bodies of dead letters
-- ARGV: entries
-- Returns how many were there. Begins with XDEL, which frees: passes at maxmemory.
local count = redis.call('XDEL', KEYS[1], unpack(ARGV))
if redis.call('EXISTS', KEYS[3]) == 1 then
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, entry in ipairs(ARGV) do
    local token, name = take_letter(KEYS[3], entry)
    if token then free_body(string.match(KEYS[1], '^(.*:)dead$'), token, name, now_ms) end
  end
end
if count > 0 then redis.call('HINCRBY', KEYS[2], 'discarded', count) end
return count
