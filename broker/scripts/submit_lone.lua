-- The short way of submit.lua, in front of it: one job that is to run now, carries its data and fits. As in settle_lone.lua, and as
-- there: anything else changes nothing here and goes on below.
if #ARGV == 11 and ARGV[4] == '0' and ARGV[5] == '0' and not KEYS[10] and string.byte(ARGV[11], 1) ~= 2 then
  local number, blob, counters = tonumber(ARGV[1]), ARGV[11], KEYS[3]
  local size, field = #blob, number % tonumber(ARGV[6])
  local kept = redis.call('HGET', KEYS[2], field)
  local spec = redis.call('HMGET', KEYS[1], 'generation', 'max_jobs', 'max_bytes', 'payload_limit_bytes')
  local is_new = not kept or tonumber(string.match(kept, '^%d+')) < number
  if is_new and spec[1] and (ARGV[2] == '-1' or ARGV[2] == spec[1]) and size <= tonumber(spec[4]) then
    local usage = redis.call('HMGET', counters, 'bytes', 'stored_bytes', 'swept_bucket')
    local stored = tonumber(usage[2] or 0)
    local is_swept = stored <= 0 or math.floor(redis.call('TIME')[1] / 10) <= tonumber(usage[3] or 0)
    local depth = redis.call('XLEN', KEYS[7]) + redis.call('XLEN', KEYS[8]) + redis.call('XLEN', KEYS[9])
      + redis.call('ZCARD', KEYS[5])
    if is_swept and depth < tonumber(spec[2]) and tonumber(usage[1] or 0) + stored + size <= tonumber(spec[3]) then
      local entry = redis.call('XADD', KEYS[6 + tonumber(ARGV[3])], '*', 'b', blob)
      local packed = cmsgpack.pack({ 'ok', entry, 1, 0, '', {} })
      redis.call('HINCRBY', counters, 'bytes', size)
      redis.call('HINCRBY', counters, 'submitted', 1)
      redis.call('HSET', KEYS[2], field, ARGV[1] .. ' ' .. packed)
      redis.call('PEXPIRE', KEYS[2], ARGV[7])
      return packed
    end
  end
end

