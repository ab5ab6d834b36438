-- The short way of settle.lua, in front of it: one job, its data in it, its outcome small, nobody else waiting for it. What that
-- does is done here with nothing around it: between two jobs of a lone sender other programs have used the processor, and each
-- function that is made and each line that is read comes from cold memory. Anything else changes nothing here and goes on below.
if ARGV[8] == '0' and #ARGV == 14 and ARGV[11] ~= '' then
  local framed, ttl_s = ARGV[14], tonumber(ARGV[11])
  local id = string.sub(framed, 29, 28 + string.byte(framed, 8))
  local client = string.match(id, '^([^-]+)-')
  if client and redis.call('EXISTS', KEYS[3], KEYS[4]) == 0 then
    local counters, lane = KEYS[1], ARGV[5] == '1' and KEYS[5] or ARGV[6] == '1' and KEYS[6] or KEYS[7]
    local is_acked = redis.call('XACK', lane, 'slots', ARGV[13]) == 1
    -- An entry that is there is ours to end, also where the group was made anew and knows no lease of it.
    if redis.call('XDEL', lane, ARGV[13]) == 0 and not is_acked then return 0 end
    local time = redis.call('TIME')
    if ttl_s > 0 then
      local size = #framed + 250 -- RESULT_OVERHEAD
      redis.call('SET', ARGV[1] .. 'result:' .. id, string.sub(framed, 5), 'EX', ttl_s)
      redis.call('HINCRBY', KEYS[2], math.floor((time[1] + ttl_s) / 10) + 1, size) -- BUCKET_S
      redis.call('HINCRBY', counters, 'stored_bytes', size)
    end
    local key = ARGV[1] .. 'reply:' .. client
    local length, cap = redis.call('RPUSH', key, framed), math.min(tonumber(ARGV[3]), math.floor(67108864 / #framed)) -- REPLY_BYTES
    if length > cap then redis.call('LTRIM', key, -cap, -1) end
    redis.call('PEXPIRE', key, ARGV[2])
    redis.call('HINCRBY', counters, 'bytes', 0 - ARGV[9]) -- -0 is no number to Redis
    redis.call('HINCRBY', counters, 'done', 1)
    note_rate(counters, time[1] * 1000 + math.floor(time[2] / 1000))
    return 1
  end
end

