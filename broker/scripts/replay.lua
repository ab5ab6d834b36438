-- Queues a dead job again under a new id and takes its letter away, both or neither.
-- KEYS: 1 dead  2 spec  3 counters  4 stored  5 delayed  6-8 lanes high, normal, low  9 bodies of dead letters
-- ARGV: 1 entry of the letter  2 lane (1-3)  3 the job's body, under its new id
-- Returns {code, detail}: ok and the new entry | gone | full, with jobs or bytes | unknown_model
-- Begins with XADD: refused at maxmemory, before anything has changed. Deadline and delay are gone, the attempt is the first.
local blob = ARGV[3]
local size = #blob + body_size(blob) -- a body that stands apart stays where it is
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return { 'gone', '' } end
local spec = redis.call('HMGET', KEYS[2], 'max_jobs', 'max_bytes')
if not spec[1] then return { 'unknown_model', '' } end
local max_jobs, max_bytes = tonumber(spec[1]), tonumber(spec[2])

-- As in submit.lua, where stored results that are past leave the books; here they are only not counted.
local bytes = tonumber(redis.call('HGET', KEYS[3], 'bytes') or 0)
local bucket = math.floor(redis.call('TIME')[1] / 10)
local all = redis.call('HGETALL', KEYS[4])
for i = 1, #all, 2 do
  if tonumber(all[i]) > bucket then bytes = bytes + tonumber(all[i + 1]) end
end
local depth = redis.call('ZCARD', KEYS[5])
for i = 6, 8 do depth = depth + redis.call('XLEN', KEYS[i]) end
if depth >= max_jobs then return { 'full', 'jobs' } end
if bytes + size > max_bytes then return { 'full', 'bytes' } end

local entry = redis.call('XADD', KEYS[5 + tonumber(ARGV[2])], '*', 'b', blob)
redis.call('XDEL', KEYS[1], ARGV[1])
take_letter(KEYS[9], ARGV[1])
redis.call('HINCRBY', KEYS[3], 'bytes', size)
redis.call('HINCRBY', KEYS[3], 'submitted', 1)
redis.call('HINCRBY', KEYS[3], 'replayed', 1)
return { 'ok', entry }
