-- Where one job is now. Reads only.
-- KEYS: 1 result  2 moved  3 delayed  4-6 lanes
-- ARGV: 1 id  2 lane ('' unknown)  3 entry ('' unknown)  4 key of bunches of results
-- Returns {state, outcome}: state is ended | delayed | waiting | claimed | unknown.
local outcome = kept(KEYS[1], ARGV[4], ARGV[1])
if outcome then return { 'ended', outcome } end
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return { 'delayed', '' } end
local lane, entry = ARGV[2], ARGV[3]
local place = redis.call('HGET', KEYS[2], ARGV[1])
if place then lane, entry = string.match(place, '^(%d) (.*)$') end
if entry ~= '' then
  local key = KEYS[3 + tonumber(lane)]
  if #redis.call('XRANGE', key, entry, entry) == 1 then
    local lease = redis.call('XPENDING', key, 'slots', entry, entry, 1)[1]
    if lease and lease[2] ~= 'returned' then return { 'claimed', '' } end
    return { 'waiting', '' }
  end
end
return { 'unknown', '' }
