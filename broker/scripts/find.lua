-- Searches one page of a lane, or of the dead letters, for a job's entry by the job's id. Reads only.
-- KEYS: 1 stream
-- ARGV: 1 id  2 where to go on: '-', or the cursor of the answer before  3 at most how many entries  4 and bytes
-- Returns {entry, cursor}: the entry '' when it is not in this page, the cursor '' when there is no page behind it.
-- What is not searched yet can only be further back: jobs are added at the end, so paging on misses none.
-- Bodies are copied into Lua, and one may be as large as a payload: 8 entries are read at once only while they are small.
local PAGE, SMALL_BYTES = 8, 65536
local id, most, left = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local from, seen, count = ARGV[2], 0, 1
if from ~= '-' then from = '(' .. from end
while seen < most and left > 0 do
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', count)
  local bytes = 0
  for _, entry in ipairs(page) do
    local fields = entry[2]
    local found
    if fields[1] == 'id' then found = fields[2] -- a dead letter names its job beside the body
    else found = string.sub(fields[2], 17, 16 + (string.byte(fields[2], 3) or 0)) end
    if found == id then return { entry[1], entry[1] } end
    for i = 2, #fields, 2 do bytes = bytes + #fields[i] end
    from = '(' .. entry[1]
  end
  seen = seen + #page
  if #page < count then return { '', '' } end
  left = left - bytes
  count = bytes <= SMALL_BYTES and PAGE or 1
end
return { '', string.sub(from, 2) }
