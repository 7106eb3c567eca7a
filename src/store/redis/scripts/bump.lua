-- Begins a new epoch after a rollback, only once, even if many nodes notice the rollback.
--
-- KEYS[1] meta  ARGV[1] the epoch that was rolled back  ARGV[2] the new one
-- Returns the epoch in force.
local epoch = redis.call('HGET', KEYS[1], 'e')
if epoch ~= ARGV[1] then return epoch end
redis.call('HSET', KEYS[1], 'e', ARGV[2])
return ARGV[2]
