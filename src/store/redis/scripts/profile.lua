-- Stores a profile made from the one that was read, unless that has changed meanwhile, or another
-- user has the name.
--
-- KEYS[1] user     text: the key of his name, then a line with the profile
-- KEYS[2] name     text: the user who has this name
-- KEYS[3] name     the one that he had before, or KEYS[2] again
-- ARGV[1] user  [2] what was read, '' for nothing  [3] what is stored in its place
-- ARGV[4] life (ms)  [5] PUBLISH|SPUBLISH  [6] channel of the signals  [7] what is told there
-- Returns { 1 }, or { 0 }: the name is another user's, or { 2, text }: that is stored by now.
local was = redis.call('GET', KEYS[1]) or ''
if was ~= ARGV[2] then return { 2, was } end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return { 0 } end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[4])
if KEYS[3] ~= KEYS[2] and redis.call('GET', KEYS[3]) == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
if was ~= ARGV[3] then redis.pcall(ARGV[5], ARGV[6], ARGV[7]) end
return { 1 }
