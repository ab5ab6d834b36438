-- Bodies that stand apart from their jobs; prepended to the scripts that take jobs in or end them. Not a script of its own.
-- Such a job is of format 2, and a reference stands where its data would begin (broker/bodies.py has the layout). Under the
-- token `redis` the body is the key body:NAME; under any other it lies outside, and a slot removes it (workers/body_remover.py).
-- bodies:TOKEN is a zset of names: above 0 the time the job was taken in, below 0 minus the time from which the body may go,
-- 0 for one that is about to be written.
local MOST_BODY = 1099511627776 -- bytes; MOST_BYTES of broker/bodies.py

-- Whether a body may stand so, by the forms of broker/bodies.py. What may not must never come near a key's name: a script
-- that fails behind its first write leaves a job without an outcome.
local function is_reference(token, name)
  local client, number = string.match(name, '^([a-z0-9]+)%-([0-9]+)$')
  return client ~= nil and #client <= 64 and #number <= 20 and #token <= 32 and string.match(token, '^[a-z0-9]+$') ~= nil
end

-- Token, name and size of the body that a job refers to; nil when it carries its data, or its reference is garbled.
local function reference(blob)
  if string.byte(blob, 1) ~= 2 or #blob < 16 then return nil end
  local descriptor, context = struct.unpack('<HH', blob, 13)
  local at = 17 + string.byte(blob, 3) + descriptor + context
  if #blob < at + 13 then return nil end
  local size, _, token_len, name_len = struct.unpack('<I8I4BB', blob, at)
  if #blob ~= at + 13 + token_len + name_len then return nil end
  local token, name = string.sub(blob, at + 14, at + 13 + token_len), string.sub(blob, at + 14 + token_len)
  if not is_reference(token, name) or size > MOST_BODY then return nil end
  return token, name, size
end

local function body_size(blob)
  local _, _, size = reference(blob)
  return size or 0
end

-- Nobody needs the body any more.
local function free_body(model, token, name, now)
  local names = model .. 'bodies:' .. token
  if token == 'redis' then
    redis.call('PEXPIRE', model .. 'body:' .. name, 0) -- no role may DEL or UNLINK
    redis.call('ZREM', names, name)
  else
    redis.call('ZADD', names, string.format('%.0f', -now), name)
  end
end

-- Takes a dead letter off the zset of those whose body stands apart; token and name of that body, nil when it is none of them.
local function take_letter(letters, entry)
  local ms = string.match(entry, '^%d+')
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', letters, ms, ms)) do
    local of, token, name = string.match(member, '^(%S+) (%S+) (%S+)$')
    if of == entry then
      redis.call('ZREM', letters, member)
      if is_reference(token, name) then return token, name end
      return nil
    end
  end
end
