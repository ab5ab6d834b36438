-- Shared by the scripts that look for stored results (prepended to locate, watch, results). Not a script of its own.
-- A result is a key of its own, or lies in a bunch among those of neighbouring jobs: see keys.results.
local READ_BYTES = 4 * 1024 * 1024 -- what one script reads of results before it stops: Redis serves nobody else meanwhile
local bunches_read, bytes_read, read_at_ms = {}, 0, nil

local function bunches_of(key)
  local found = bunches_read[key]
  if not found then
    found = redis.pcall('LRANGE', key, 0, -1)
    if found.err then found = {} end -- a user whose rights are of a version before: then nothing was stored so
    for i = 2, #found, 2 do bytes_read = bytes_read + #found[i] end
    bunches_read[key] = found
  end
  if #found > 0 and not read_at_ms then
    local time = redis.call('TIME')
    read_at_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return found
end

-- The outcome in framed ones, false where it is not among them.
local function among(frames, id)
  if not string.find(frames, id, 1, true) then return false end
  local at = 1
  while at < #frames do
    local size = struct.unpack('<I4', frames, at)
    if string.byte(frames, at + 7) == #id and string.sub(frames, at + 28, at + 27 + #id) == id then
      return string.sub(frames, at + 4, at + 3 + size)
    end
    at = at + 4 + size
  end
  return false
end

-- A job's stored outcome, false where there is none, none any more, or where enough was read before.
local function kept(result_key, results_key, id)
  if bytes_read > READ_BYTES and not bunches_read[results_key] then return false end
  local outcome = redis.call('GET', result_key)
  if outcome then
    bytes_read = bytes_read + #outcome
    return outcome
  end
  local bunches = bunches_of(results_key)
  for i = 1, #bunches, 2 do
    if tonumber(bunches[i]) > read_at_ms then
      outcome = among(bunches[i + 1], id)
      if outcome then return outcome end
    end
  end
  return false
end
