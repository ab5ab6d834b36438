-- Asks for a place among those retiring: granted only while enough slots of the model stay ready.
-- KEYS: 1 ready  2 retiring  3 failing  4 due  5 asked
-- ARGV: 1 slot  2 place_ttl_ms  3 overdue_ms: for how long the slot has been due  4 key of wanted: slots may read it only,
--       and what is given in KEYS counts as written to
-- Returns 1 when granted. Ready minus retiring must stay at least three quarters of wanted (rounded down, at least one),
-- and no slot of the model may be failing to load. A model that has only one slot retires without asking.
-- Among those due the one that has waited longest goes first: a fast slot must not take the place from an overdue one.
-- Who has not asked for ASKED_MS waits no more: it ended, or need not retire any longer. Nobody else is held up by it.
local ASKED_MS = 3000
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, 3 do redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now_ms) end
local wanted = 0
for _, count in ipairs(redis.call('HVALS', ARGV[4])) do wanted = wanted + tonumber(count) end
if wanted > 1 then
  redis.call('ZADD', KEYS[4], now_ms - tonumber(ARGV[3]), ARGV[1])
  redis.call('ZADD', KEYS[5], now_ms, ARGV[1])
  if redis.call('ZCARD', KEYS[3]) > 0 then return 0 end
  for _, slot in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    if slot == ARGV[1] then break end
    local asked = tonumber(redis.call('ZSCORE', KEYS[5], slot) or 0)
    if redis.call('ZSCORE', KEYS[1], slot) and now_ms - asked < ASKED_MS then return 0 end
    redis.call('ZREM', KEYS[4], slot)
    redis.call('ZREM', KEYS[5], slot)
  end
  local stay = 0
  for _, slot in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if slot ~= ARGV[1] and not redis.call('ZSCORE', KEYS[2], slot) then stay = stay + 1 end
  end
  if stay < math.max(1, math.floor(wanted * 3 / 4)) then return 0 end
end
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[2]), ARGV[1])
return 1
