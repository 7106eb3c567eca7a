-- Stores a profile, unless another user has its name.
--
-- KEYS[1] user     text: the key of his name, then a line with the profile
-- KEYS[2] name     text: the user who has this name
-- KEYS[3] name     the one that he had before, or KEYS[2] again
-- ARGV[1] user  [2] profile  [3] key of its name  [4] key of the name before, '' for none
-- ARGV[5] life (ms)  [6] PUBLISH|SPUBLISH  [7] channel of the signals  [8] what is told there
-- Returns { 1 }, or { 0 }: the name is another user's, or { 2, key }: that is the name before.
local key, was = string.match(redis.call('GET', KEYS[1]) or '', '^([^\n]*)\n(.*)$')
if (key or '') ~= ARGV[4] then return { 2, key or '' } end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return { 0 } end
redis.call('SET', KEYS[1], ARGV[3] .. '\n' .. ARGV[2], 'PX', ARGV[5])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[5])
if key and key ~= ARGV[3] and redis.call('GET', KEYS[3]) == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
if was ~= ARGV[2] then redis.pcall(ARGV[6], ARGV[7], ARGV[8]) end
return { 1 }
