-- Shared by the scripts that look for stored results (prepended to locate, watch, results). Not a script of its own.
-- A result is a key of its own, or lies in a bunch among those of neighbouring jobs: see keys.results. The bunches' key comes among
-- the arguments: as one of KEYS, Redis would refuse the whole script to a user whose rights are of a version before.
local READ_BYTES = 4 * 1024 * 1024 -- what one script reads of results before it stops: Redis serves nobody else meanwhile
local bunches_read, bytes_read, read_at_ms = {}, 0, nil

-- What lies in the bunches of a key and is valid: id -> {framed outcomes, where its own begins behind the frame}. Read once, from head
-- to head: to search them for an id takes Redis a millisecond where they hold text.
local function bunches_of(key)
  local places = bunches_read[key]
  if places then return places end
  places = {}
  bunches_read[key] = places
  local found = redis.pcall('LRANGE', key, 0, -1)
  if found.err then found = {} end -- such a user: then nothing was stored so
  if #found > 0 and not read_at_ms then
    local time = redis.call('TIME')
    read_at_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  for i = 2, #found, 2 do
    local frames, at = found[i], 5
    bytes_read = bytes_read + #frames
    if tonumber(found[i - 1]) > read_at_ms then
      while at < #frames do
        local id = string.sub(frames, at + 24, at + 23 + string.byte(frames, at + 3))
        places[id] = places[id] or { frames, at }
        at = at + struct.unpack('<I4', frames, at - 4) + 4
      end
    end
  end
  return places
end

-- A job's stored outcome, false where there is none, none any more, or where enough was read before.
local function kept(result_key, results_key, id)
  if bytes_read > READ_BYTES and not bunches_read[results_key] then return false end
  local outcome = redis.call('GET', result_key)
  if outcome then
    bytes_read = bytes_read + #outcome
    return outcome
  end
  local place = bunches_of(results_key)[id]
  if not place then return false end
  local frames, at = place[1], place[2]
  return string.sub(frames, at, at - 1 + struct.unpack('<I4', frames, at - 4))
end
