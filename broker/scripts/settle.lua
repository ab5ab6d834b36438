-- Ends jobs that are done: per id XACK first, and only where it returned 1 the result is written (first finisher wins).
-- KEYS: 1-4 as in finish.lua  5-7 lanes
-- ARGV: 1-4 as in finish.lua  then per job: lane, entry, id, size, ttl_s (0: not stored), outcome
-- Returns how many were ours to end; the others were ended by someone else before and nothing changed.
-- Begins with XACK, which frees: passes at maxmemory.
local count = 0
for i = 5, #ARGV, 6 do
  local lane, entry = KEYS[4 + tonumber(ARGV[i])], ARGV[i + 1]
  if redis.call('XACK', lane, GROUP, entry) == 1 then
    redis.call('XDEL', lane, entry)
    finish(ARGV[i + 2], 'done', tonumber(ARGV[i + 4]), tonumber(ARGV[i + 3]), ARGV[i + 5])
    count = count + 1
  end
end
flush()
-- The drain rate (jobs/s over the last second or more) is what QueueFull's retry_after is made of. A gap is no rate.
if count > 0 then
  local mark = redis.call('HMGET', counters, 'done', 'mark_ms', 'mark_done')
  local elapsed = now_ms - tonumber(mark[2] or 0)
  if elapsed >= 1000 then
    if elapsed < 10000 then
      redis.call('HSET', counters, 'rate', math.floor((mark[1] - mark[3]) * 1000 / elapsed))
    end
    redis.call('HSET', counters, 'mark_ms', string.format('%.0f', now_ms), 'mark_done', mark[1])
  end
end
return count
