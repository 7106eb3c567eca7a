-- Which of some keys exist.
--
-- Returns 0 or 1 for each.
local found = {}
for i = 1, #KEYS do found[i] = redis.call('EXISTS', KEYS[i]) end
return found
