-- Tells which keys exist: returns 1 or 0 for each key.
local found = {}
for i = 1, #KEYS do found[i] = redis.call('EXISTS', KEYS[i]) end
return found
