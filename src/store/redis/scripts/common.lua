-- Finds the newest frame that both a node and the log have, after the log was rolled back.
--
-- KEYS[1] log  ARGV[..] pairs, newest first: last seq of a frame that the node has, how it begins
-- Returns the last seq of that frame, or 0 if there is none.
for i = 1, #ARGV, 2 do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i] .. '-0', ARGV[i] .. '-0')
  if entry[1] and string.sub(entry[1][2][2], 1, #ARGV[i + 1]) == ARGV[i + 1] then
    return tonumber(ARGV[i])
  end
end
return 0
