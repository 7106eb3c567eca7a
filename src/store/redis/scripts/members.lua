-- The users in a room.
--
-- KEYS[1] roster (presence.lua describes it)  ARGV[1] users at most
-- Returns { version, count, { "<nodes> <user as JSON>", .. } }, and no users when there are more.
local version = redis.call('HGET', KEYS[1], '')
if not version then
  local time = redis.call('TIME')
  return { string.format('%.0f', time[1] * 1000000 + time[2]), 0, {} }
end
local count, users = redis.call('HLEN', KEYS[1]) - 1, {}
if count <= tonumber(ARGV[1]) then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if all[i] ~= '' then users[#users + 1] = all[i + 1] end
  end
end
return { version, count, users }
