-- Stored outcomes of several jobs of one model. Reads only.
-- KEYS: per job its result's key
-- ARGV: ids, then per job the key of its bunches: see kept.lua
-- Returns per job the outcome, or false where there is none, or once these came to 4 MB.
local found = {}
for i, key in ipairs(KEYS) do found[i] = kept(key, ARGV[#KEYS + i], ARGV[i]) end
return found
