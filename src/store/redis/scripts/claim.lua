-- Takes a session over, and says on a channel who has lost it.
--
-- KEYS[1] session (save.lua describes it)
-- ARGV[1] new holder  [2] life (ms)  [3] channel  [4] its user
-- Returns { record }, or {}: there is none, or it is another user's.
local holder, record = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+) %d+\n(.*)$')
if not holder or cjson.decode(record).user ~= ARGV[4] then return {} end
if holder ~= ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1] .. ' 0\n' .. record, 'PX', ARGV[2])
  -- Plain PUBLISH in a cluster too, because SPUBLISH would tie the channel to the session's slot.
  -- Who does not hear it finds out when he next keeps his sessions alive.
  redis.pcall('PUBLISH', ARGV[3], holder)
end
return { record }
