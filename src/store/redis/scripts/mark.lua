-- Moves a user's read mark in a room forward.
--
-- KEYS[1] read marks of the user, a hash: room -> "<epoch> <seq>"
-- KEYS[2] meta (append.lua describes it)
-- ARGV[1] room  [2] seq  [3] read marks at most  [4] life (ms)
-- ARGV[5] PUBLISH|SPUBLISH  [6] channel of the signals  [7] user, as JSON
-- Returns { seq in force }.
local meta = redis.call('HMGET', KEYS[2], 'e', 's')
local epoch, seq = meta[1] or '', math.min(tonumber(ARGV[2]), tonumber(meta[2] or 0))
local had, was = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S*) (%d+)$')
if had == epoch and tonumber(was) >= seq then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return { tonumber(was) }
end
if not had and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  -- All rooms of the partition share one sequence, so the lowest mark is about the oldest message.
  local all, oldest, lowest = redis.call('HGETALL', KEYS[1]), nil, nil
  for i = 1, #all, 2 do
    local at = tonumber(string.match(all[i + 1], '%d+$') or 0)
    if not lowest or at < lowest then oldest, lowest = all[i], at end
  end
  redis.call('HDEL', KEYS[1], oldest)
end
redis.call('HSET', KEYS[1], ARGV[1], epoch .. ' ' .. string.format('%.0f', seq))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if seq ~= tonumber(was or 0) then
  redis.pcall(ARGV[5], ARGV[6], '{"read":{"user":' .. ARGV[7] .. ',"room":' .. cjson.encode(ARGV[1])
    .. ',"seq":' .. string.format('%.0f', seq) .. '}}')
end
return { seq }
