-- Replaces a user's profile, unless it has changed since it was read, or another user has the name.
--
-- KEYS[1] user     text: the key of the user's name, then a line with the profile
-- KEYS[2] name     text: the id of the user that has this name
-- KEYS[3] name     the user's name until now, or KEYS[2] again
-- ARGV[1] user  [2] the text that was read, '' for none  [3] the text to store
-- ARGV[4] life (ms)  [5] PUBLISH|SPUBLISH  [6] channel of the signals  [7] the signal to publish
-- Returns { 1 } if it is stored, { 0 } if the name belongs to another user, or { 2, text } if the
-- profile has changed: the text that is stored.
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
