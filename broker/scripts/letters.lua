-- One page of the dead letters, newest first, without the jobs' bodies. Reads only.
-- KEYS: 1 dead
-- ARGV: 1 where to go on: '+', or the cursor of the answer before  2 at most how many letters  3 reason ('' any)
-- Returns {now_ms, cursor, entry, size, {field, value, ...}, entry, ...}: `size` is the job's bytes; the cursor is ''
-- when there is no page behind this one. A call reads at most 4 MB of bodies, so a page may be short, or even empty.
local PAGE, SMALL_BYTES = 8, 65536 -- as in find.lua
local MOST_READ, MOST_BYTES = 2000, 4 * 1024 * 1024
local time = redis.call('TIME')
local before, most, reason = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local answer = { string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), '' }
local count, seen, bytes, ask = 0, 0, 0, 1
if before ~= '+' then before = '(' .. before end
while true do
  local page = redis.call('XREVRANGE', KEYS[1], before, '-', 'COUNT', ask)
  local so_far = bytes
  for _, entry in ipairs(page) do
    local size, fields, wanted = 0, {}, reason == ''
    for i = 1, #entry[2], 2 do
      local field, value = entry[2][i], entry[2][i + 1]
      bytes = bytes + #value
      if field == 'job' then size = #value + body_size(value)
      else
        if field == 'reason' and value == reason then wanted = true end
        fields[#fields + 1] = field
        fields[#fields + 1] = value
      end
    end
    before = '(' .. entry[1]
    if wanted then
      answer[#answer + 1] = entry[1]
      answer[#answer + 1] = size
      answer[#answer + 1] = fields
      count = count + 1
    end
    if count == most then break end
  end
  seen = seen + #page
  if count < most and #page < ask then return answer end
  if count == most or seen >= MOST_READ or bytes >= MOST_BYTES then
    answer[2] = string.sub(before, 2)
    return answer
  end
  ask = bytes - so_far <= SMALL_BYTES and PAGE or 1
end
