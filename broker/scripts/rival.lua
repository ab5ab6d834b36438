-- Shared by the scripts that queue a run (prepended to run_submit and run_ask). Not a script of its own.
-- One output, one run: two that write under one name would each take the other's rows for its own.

-- {id, state} of another run that is to write this output, or, where `since_ms` is given, has written it since; nil for none.
-- What is garbled is passed over.
local function rival(runs, prefix, id, output, since_ms)
  for _, other in ipairs(redis.call('ZRANGE', runs, 0, -1)) do
    local said = other ~= id and redis.pcall('HMGET', prefix .. other, 'output', 'state', 'ended_ms')
    if said and said[1] and said[1] == output then
      local state = said[2]
      if state == 'queued' or state == 'running' or state == 'paused' then return { other, state } end
      local has_written = state == 'done' or state == 'done_with_errors'
      if since_ms and has_written and (tonumber(said[3]) or 0) >= since_ms then return { other, state } end
    end
  end
end

-- When a run that ended let go of its output, where what stands there is its own, or will be replaced when it goes on; nil where it
-- would refuse to replace it.
local function owns_since(run)
  local said = redis.call('HMGET', run, 'is_replacing', 'is_retry', 'ended_ms', 'state')
  if said[1] or said[2] or said[4] == 'done' or said[4] == 'done_with_errors' then return tonumber(said[3]) or 0 end
end

