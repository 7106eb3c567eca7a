-- Publishes the newest frame of the log again, for a node that tests its subscription.
--
-- KEYS[1] log  ARGV[1] PUBLISH|SPUBLISH  ARGV[2] channel
-- Returns 1, or 0 if there is no frame.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if not newest[1] then return 0 end
redis.call(ARGV[1], ARGV[2], newest[1][2][2])
return 1
