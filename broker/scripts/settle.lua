-- Ends jobs that are done. XACK comes first, and only for jobs it ended a result is written: the first finisher wins.
-- KEYS: 1-4 as in finish.lua  5-7 lanes
-- ARGV: 1-4 as in finish.lua  5-7 how many jobs of each lane, in that order
--       8 of how many jobs the body stands apart, then per such job: its entry's place in ARGV, token, name
--       then the entries of all jobs, lane after lane, then per job: id, size, ttl_s (0: not stored), framed outcome;
--       of one above inline_limit `=ttl_s` and the outcome without its frame
-- Returns how many were ours to end; the others were ended by someone else before and nothing changed.
-- Begins with XACK, which frees: passes at maxmemory.
local EQUALS = 61
local AT_ONCE = 1000 -- arguments per command, within what Lua's stack takes
local bodies_end = 8 + 3 * tonumber(ARGV[8])
local first, total, skip = bodies_end + 1, 0, {}
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
      for at = first, last do
        if redis.call('XDEL', key, ARGV[at]) == 0 then skip[at] = true end
      end
    end
    first = last + 1
    total = total + count
  end
end

-- Everything a job costs here is paid tens of thousands of times a second, so the common case stays off the function calls.
local is_plain = redis.call('EXISTS', watchers, moved) == 0
local count, dash, parts, at = 0, '', nil, first
for entry = first - total, first - 1 do
  if not skip[entry] then
    local id, ttl_s, framed = ARGV[at], ARGV[at + 2], ARGV[at + 3]
    count = count + 1
    if is_plain and #framed <= inline_limit then
      if ttl_s ~= '0' then
        redis.call('SET', prefix .. 'result:' .. id, string.sub(framed, 5), 'EX', ttl_s)
        due[ttl_s] = (due[ttl_s] or 0) + #framed + RESULT_OVERHEAD
      end
      freed_bytes = freed_bytes + ARGV[at + 1]
      if dash == '' or string.sub(id, 1, #dash) ~= dash then
        dash = string.match(id, '^[^-]+-') or ''
        parts = dash ~= '' and reply_parts(string.sub(dash, 1, -2)) or {}
      end
      parts[#parts + 1] = framed
    else
      local outcome = framed
      if string.byte(ttl_s) == EQUALS then ttl_s = string.sub(ttl_s, 2) else outcome = string.sub(framed, 5) end
      finish(id, 'done', tonumber(ttl_s), tonumber(ARGV[at + 1]), outcome)
    end
  end
  at = at + 4
end
for place = 9, bodies_end, 3 do
  if not skip[tonumber(ARGV[place])] then free_body(prefix, ARGV[place + 1], ARGV[place + 2], now_ms) end
end
if count > 0 then ended.done = count end
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
