-- Stored outcomes of several jobs of one model. Reads only.
-- KEYS: per job its result's key and that of its bunches
-- ARGV: ids
-- Returns per job the outcome, or false where there is none, or once these came to 4 MB.
local found = {}
for i, id in ipairs(ARGV) do found[i] = kept(KEYS[2 * i - 1], KEYS[2 * i], id) end
return found
