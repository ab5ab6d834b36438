-- Shared by the ways of settling (prepended to settle). Not a script of its own.
-- The drain rate (jobs/s over the last second or more) is what QueueFull's retry_after is made of. A gap is no rate.
local function note_rate(counters, now_ms)
  local mark = redis.call('HMGET', counters, 'done', 'mark_ms', 'mark_done')
  local elapsed = now_ms - tonumber(mark[2] or 0)
  if elapsed >= 1000 then
    if elapsed < 10000 then
      redis.call('HSET', counters, 'rate', math.floor((mark[1] - mark[3]) * 1000 / elapsed))
    end
    redis.call('HSET', counters, 'mark_ms', string.format('%.0f', now_ms), 'mark_done', mark[1])
  end
end
